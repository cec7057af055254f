"""Models that filter uses: CLIP through open_clip, small heads on its embeddings, and the project's own tiny CLIP."""
