"""The app's user interface, one folder for each page. The only part of the package that imports Streamlit."""
