"""The losses under the names, arguments and defaults of other libraries.

`torch` has `CTCLoss` and `ctc_loss`; `torchaudio` has `rnnt_loss`, `RNNTLoss`, `forced_align`,
`merge_tokens`, `TokenSpan` and `edit_distance`; `speechbrain` has what `speechbrain.nnet.losses` has. None of
these libraries but torch has to be installed.
"""
