"""Where each word is: transcripts as labels, alignments as words in seconds, and files that editors open."""
