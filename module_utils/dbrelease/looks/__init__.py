"""Each way of looking at a release that is deployed: its options, and an act that journals what it saw as proofs."""
