"""What pages are made of: session and caches, charts, components. The only part of the package that knows Streamlit."""
