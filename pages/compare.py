"""The Compare page: two to eight responses to one prompt side by side, or best of N."""

import streamlit as st

from sparserm.types import SparseRMError
from sparserm.ui.compare import best_of_n
from sparserm.ui.compare import inputs as compare_inputs
from sparserm.ui.compare import view as compare_view
from sparserm.ui.shared.components import progress_bar
from sparserm.ui.shared.context import current
from sparserm.ui.shared.links import too_long
from sparserm.ui.shared.text import sentence

st.title("Compare responses", anchor=False)
context = current()
views = [compare_inputs.SIDE_BY_SIDE, compare_inputs.BEST_OF_N]
view = st.segmented_control(
    "View", views, default=views[0], required=True, key="compare_mode", bind="query-params", label_visibility="collapsed"
)
if view == compare_inputs.BEST_OF_N:
    best_of_n.draw(context)
    st.stop()

st.caption("Which response the head prefers, with what probability, and which features and tokens decide.")
at_once = compare_inputs.begin(context)

inputs = compare_inputs.draw(context)
with st.container(horizontal=True, vertical_alignment="center"):
    pressed = st.button("Compare", type="primary", width=220)
    compare_inputs.add_button()
    if not compare_inputs.keep_link(context, inputs):
        too_long()

if pressed or at_once:
    progress, done = progress_bar()
    try:
        with st.spinner("Scoring the responses…"):
            st.session_state.compared = compare_view.compare(context, inputs, progress)
    except SparseRMError as error:
        st.error(sentence(error))
    done()

compared: compare_view.Compared | None = st.session_state.get("compared")
if compared is None:
    st.info("Press **Compare** to see which response wins and why.", icon=":material/compare_arrows:")
    st.stop()
same_head = (compared.head, compared.hash) == (context.key, context.hash)
if compared.inputs != inputs or not same_head:
    what = "The fields have changed" if same_head else "A different head was selected"
    st.warning(f"{what} since this comparison. Press **Compare** to update it.", icon=":material/history:")
if not same_head:
    st.stop()  # the results would be shown against the reference rewards of the wrong head
compare_view.ranking(compared, context)
st.subheader("Pairwise breakdown", anchor=False)
compare_view.pairwise(compared, context, *compare_view.pins(compared.found))
