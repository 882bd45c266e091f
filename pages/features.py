"""The Features page: the features of the head, or every latent of its SAE, with a card for each."""

import streamlit as st

from sparserm.features.listing import SORTS, filter_features, list_features
from sparserm.sae.seeds import seeds_of
from sparserm.types import SparseRMError
from sparserm.ui.features import card_view, state
from sparserm.ui.features import list_view as view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.context import current
from sparserm.ui.shared.sae_facts import ABOUT_SAE, sae_facts
from sparserm.ui.shared.text import sentence

st.title("Features", anchor=False)
context = current()
head, card = context.saved.head, context.card
feature = state.begin(context)

st.caption(
    "A feature is a latent of the sparse autoencoder; the head weights some. See what each detects and where it misleads."
)
note = st.container()
with st.expander("Preference pairs behind the statistics and examples", icon=":material/table_rows:"):
    source = pairs_picker.pick_source("pairs", "Pairs", note_in=note)
try:
    found, table = view.measured(source, context)
except SparseRMError as error:
    st.error(sentence(error))
    st.stop()
assert source is not None
labels, lens = state.listed_labels(context), state.known_lens(found, context)
seeds = seeds_of(card.sae, card.sae_fingerprint, card.d_sae)
if about := sae_facts(card.sae):
    st.caption(about, help=ABOUT_SAE)

# ------------------------------------------------------------------------------------------------------------- the list
which, query, sort = st.columns([4, 3, 2], vertical_alignment="bottom")
listed = str(
    which.segmented_control(
        "Show",
        [view.HEAD, view.ALL, view.TEXT],
        key="list",
        default=view.HEAD,
        required=True,
        bind="query-params",
        persist_state="session",
    )
)
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
    firing = state.fire(context, prompt, text)
except SparseRMError as error:
    st.error(sentence(error))
    firing = None
lit_text = st.container()  # filled below: it is highlighted by the feature of the card
token = view.token_choice(firing) if searching else None
rows = list_features(
    table,
    head,
    labels,
    detected=state.detected(context),
    fires_on=state.listed_words(found, context),
    lens=lens,
    firing=firing if searching else None,
    token=token,
    only_head=listed == view.HEAD,
    selected=context.saved.selected,
    seeds=seeds,
)
hide_dense, hide_begin = view.filters(listed)
results = state.search(context, asked or "", rows)
shown = filter_features(rows, query=asked or "", results=results, hide_dense=hide_dense, hide_begin=hide_begin, sort=order)
st.caption(f"{view.hidden_line(shown, listed)}. Figures from {view.source_line(found.data.name, table)}.")
if asked and shown.rows.empty:
    view.nothing_found(asked, shown, listed, card.d_sae, lens=lens is not None)
else:
    view.feature_table(shown, feature)
left, right = st.columns([4, 1], vertical_alignment="bottom")
with left:
    download_table(shown.rows, "Features", f"features-{context.key}.csv")
st.session_state[state.NUMBER] = feature
right.number_input(
    "Go to feature",
    0,
    card.d_sae - 1,
    key=state.NUMBER,
    on_change=state.choose_typed,
    label_visibility="collapsed",
    help="Number of the feature to open",
)
view.offer_job(source, context, lens)
view.offer_labels(source, context)

# ------------------------------------------------------------------------------------------------------------- the card
st.divider()
card_view.header(context, feature, [int(one) for one in shown.rows["feature"]])
weight = card_view.weight_of(head, feature)
leaning = card_view.lean(table, feature, weight)
card_view.evidence(table, feature, weight, card_view.selected_of(context.saved, feature), seeds)
where = st.container()  # filled below, from the examples
one = state.card(found, context, feature)
figure, tokens = st.columns(2, gap="large")
with figure:
    card_view.density(one, context, firing, [pair.row for pair in found.data.pairs])
with tokens:
    card_view.logits(context, feature, lens)
    card_view.similar(one, table, labels)
read = state.examples(found, context, one)
with where:
    card_view.where_it_fires(read)
card_view.example_lists(one, read, leaning, head.score)
if not searching:
    st.subheader("On your own text", anchor=False)
    view.text_fields()
    lit_text = st.container()
if firing is not None:
    with lit_text:
        card_view.on_text(feature, firing, card_view.full_colour(read), leaning)
