"""The model card of an exported merge: a page in Markdown, example pictures, and a workflow for ComfyUI."""
