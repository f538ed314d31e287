"""What lives on a lattice: losses, their occupation, best paths, streaming and decoding, one idea a file."""
