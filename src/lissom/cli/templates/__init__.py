"""What `lissom init` writes: a recipe, and a network with its data, as a beginning of one's own."""
