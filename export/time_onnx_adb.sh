#!/bin/sh
# Time an ONNX model on an Android phone: prints the milliseconds of each of 50 runs.
# Example: sh time_onnx_adb.sh model.onnx 1
# The phone has onnxruntime_perf_test and libonnxruntime.so in /data/local/tmp.
# CORES: mask of the cores to run on, in hexadecimal; f0 are the cores 4 to 7.
set -eu
there=/data/local/tmp
adb push "$1" $there/model.onnx >&2
adb shell "cd $there && rm -f runs.csv && LD_LIBRARY_PATH=. taskset ${CORES:-f0} \
./onnxruntime_perf_test -I -m times -r 50 -x $2 $there/model.onnx $there/runs.csv" >&2
runs=$(adb shell cat $there/runs.csv)
# A line a run: name, seconds, memory, CPU usage, number of the run.
echo "$runs" | awk -F , 'NF == 5 { print 1000 * $2 }'
