"""Speed, measured: ours and a peer's in the same interleaved run."""
