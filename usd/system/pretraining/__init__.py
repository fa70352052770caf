"""Training of the embedded family of models: autoencoder, text, novel views, CLIP, elevation, view volume."""
