"""What stands beside an exported file, by what is behind its name there."""

PROOF = ".proof.json"  # the export's `Report`: how it was proved
BENCH = ".bench.json"  # what `bench` found of it
CARD = ".md"  # its model card
