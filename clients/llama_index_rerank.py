"""LlamaIndex's re-ranker for Text Embeddings Inference: responses as documents, the prompt as query."""

from __future__ import annotations

import math

from clients.kinds import Check, Client, Place, close, equal


def _rerank(place: Place) -> None:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    prompt = place.prompts[0]
    own = {
        response: reward
        for asked, response, reward in zip(place.prompts, place.responses, place.rewards["truthfulness"], strict=True)
        if asked == prompt
    }
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in own]
    ranked = TextEmbeddingInference(base_url=place.url, top_n=len(own)).postprocess_nodes(nodes, QueryBundle(prompt))
    equal([node.text for node in ranked], sorted(own, key=lambda text: -own[text]))
    close([node.score for node in ranked], sorted((1 / (1 + math.exp(-reward)) for reward in own.values()), reverse=True))


CLIENT = Client(
    name="LlamaIndex TEI re-ranker",
    package="llama-index-postprocessor-tei-rerank",
    requirements=("llama-index-postprocessor-tei-rerank>=0.4,<1",),
    checks=(Check("`TextEmbeddingInference.postprocess_nodes` ranks responses by reward through `/rerank`", _rerank),),
)
