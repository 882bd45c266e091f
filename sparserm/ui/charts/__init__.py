"""Plain data into Plotly figures, a file for each page; colours, number formats and shared layout in ``style``."""
