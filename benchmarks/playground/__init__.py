"""The playground in a browser: pictures of it, and how it keeps up with long texts."""
