"""The Features page: the features of the head, or every latent of the SAE, with a card for each."""

import streamlit as st

from sparserm.features.listing import SORTS, filter_features, list_features
from sparserm.sae.seeds import seeds_of
from sparserm.types import SparseRMError
from sparserm.ui.features import card_view, state
from sparserm.ui.features import list_view as view
from sparserm.ui.features.scope import selected_scope
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.sae_facts import ABOUT_SAE, sae_facts
from sparserm.ui.shared.text import sentence

st.title("Features", anchor=False)
scope = selected_scope()
context, here = scope.context, scope.place

st.caption(
    "A feature is a latent of the sparse autoencoder; the head weights some. See what each detects and where it misleads."
)
note = st.container()
with st.expander("Preference pairs behind the statistics and examples", icon=":material/table_rows:"):
    source = pairs_picker.pick_source("pairs", "Pairs", note_in=note)
try:
    found, table = view.measured(source, scope)
except SparseRMError as error:
    st.error(sentence(error))
    st.stop()
assert source is not None
feature = state.begin(scope, table)
labels, lens = state.listed_labels(scope), state.known_lens(found, here)
seeds = seeds_of(here.sae_name, here.sae_fingerprint, here.d_sae)
if about := sae_facts(here.sae_name):
    st.caption(about, help=ABOUT_SAE)

# ------------------------------------------------------------------------------------------------------------- the list
which, query, sort = st.columns([4, 3, 2], vertical_alignment="bottom")
with which:
    listed = view.listed_choice(scope)
asked = query.text_input(
    "Search", key="find", type="search", placeholder="a number, word or meaning", bind="query-params", live=True
)
order = sort.selectbox(
    "Sort by",
    SORTS,
    key="sort",
    bind="query-params",
    persist_state="session",
    help="Relevance: the largest weight in the head, then the most certain gap; on a text, the largest activation. Gaps and "
    "correlations are sorted by absolute value.",
)
searching = listed == view.TEXT
prompt, text = view.text_fields() if searching else state.own_text()
try:
    firing = state.fire(here, prompt, text)
except SparseRMError as error:
    st.error(sentence(error))
    firing = None
lit_text = st.container()  # filled below: it is highlighted by the feature of the card
token = view.token_choice(firing) if searching else None
rows = list_features(
    table,
    scope.head,
    labels,
    detected=state.detected(scope),
    fires_on=state.listed_words(found, here),
    lens=lens,
    firing=firing if searching else None,
    token=token,
    only_head=listed == view.HEAD,
    selected=context.saved.selected if context else None,
    seeds=seeds,
)
hide_dense, hide_begin = view.filters(listed)
results = state.search(here, asked or "", rows)
shown = filter_features(rows, query=asked or "", results=results, hide_dense=hide_dense, hide_begin=hide_begin, sort=order)
st.caption(f"{view.hidden_line(shown, listed)}. Figures from {view.source_line(found.data.name, table)}.")
if asked and shown.rows.empty:
    view.nothing_found(asked, shown, listed, here.d_sae, lens=lens is not None)
else:
    view.feature_table(shown, feature)
left, right = st.columns([4, 1], vertical_alignment="bottom")
with left:
    download_table(shown.rows, "Features", f"features-{scope.name.replace('/', '-')}.csv")
    view.list_link(scope)
st.session_state[state.NUMBER] = feature
right.number_input(
    "Go to feature",
    0,
    here.d_sae - 1,
    key=state.NUMBER,
    on_change=state.choose_typed,
    label_visibility="collapsed",
    help="Number of the feature to open",
)
view.offer_job(source, scope, lens)
if context is not None:
    view.offer_labels(source, context)

# ------------------------------------------------------------------------------------------------------------- the card
st.divider()
card_view.header(scope, feature, [int(one) for one in shown.rows["feature"]])
leaning = card_view.lean(scope, table, feature)
card_view.evidence(scope, table, feature, seeds)
where = st.container()  # filled below, from the examples
one = state.card(found, scope, feature)
figure, tokens = st.columns(2, gap="large")
with figure:
    card_view.density(one, scope, firing, [pair.row for pair in found.data.pairs])
with tokens:
    card_view.logits(here, feature, lens)
    card_view.similar(one, table, labels)
read = state.examples(found, scope, one)
with where:
    card_view.where_it_fires(read)
card_view.example_lists(one, read, leaning, scope.score)
if not searching:
    st.subheader("On your own text", anchor=False)
    view.text_fields()
    lit_text = st.container()
if firing is not None:
    with lit_text:
        card_view.on_text(feature, firing, card_view.full_colour(read), leaning)
