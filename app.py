"""Entry point of the app: navigation, the sidebar and the page. Start it with `sparserm app`."""

import streamlit as st

from sparserm.support.defaults import bundle_dir
from sparserm.types import SparseRMError
from sparserm.ui.shared.context import draw_sidebar
from sparserm.ui.shared.frame import LOGO, draw_frame, title
from sparserm.ui.shared.frontend import PAGE_CSS
from sparserm.ui.shared.text import sentence

st.set_page_config(page_title="SparseRM", page_icon=LOGO, layout="wide", initial_sidebar_state=280)
st.html(PAGE_CSS)

pages = bundle_dir() / "pages"
page = st.navigation(
    [
        st.Page(pages / "score.py", title="Score", icon=":material/speed:", default=True),
        st.Page(pages / "insights.py", title="Insights", icon=":material/insights:"),
        st.Page(pages / "compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page(pages / "features.py", title="Features", icon=":material/category:"),
        st.Page(pages / "train.py", title="Train", icon=":material/model_training:"),
        st.Page(pages / "edit.py", title="Edit head", icon=":material/tune:"),
        st.Page(pages / "evaluate.py", title="Evaluate", icon=":material/fact_check:"),
        st.Page(pages / "audit.py", title="Audit", icon=":material/troubleshoot:"),
        st.Page(pages / "use.py", title="Use it", icon=":material/deployed_code:"),
        st.Page(pages / "docs.py", title="Docs", visibility="hidden"),  # linked from the frame
    ],
    position="top",
)
st.set_page_config(page_title=title(page.title))
draw_frame()
draw_sidebar()
try:
    page.run()
except SparseRMError as error:  # such as a head whose SAE is not here
    st.error(sentence(error))
