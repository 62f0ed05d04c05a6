"""Serving: serves saved models with the HTTP APIs of OpenAI and text-embeddings-inference."""
