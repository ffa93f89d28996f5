#!/bin/sh
# Time an ExecuTorch model on an Android phone: prints the mean milliseconds of 50 runs.
# Example: sh time_pte_adb.sh model.pte 1
# The phone has executor_runner, built with logging, in /data/local/tmp.
# CORES: mask of the cores to run on, in hexadecimal; f0 are the cores 4 to 7.
set -eu
there=/data/local/tmp
adb push "$1" $there/model.pte >&2
said=$(adb shell "cd $there && taskset ${CORES:-f0} ./executor_runner --model_path=model.pte \
--num_executions=50 --cpu_threads=$2 2>&1") || { echo "$said" >&2; exit 1; }
# ... Model executed successfully 50 time(s) in 123.4 ms.
echo "$said" | sed -n 's/.*successfully \([0-9]*\) time(s) in \([0-9.]*\) ms.*/\2 \1/p' |
  awk '{ print $1 / $2 }'
