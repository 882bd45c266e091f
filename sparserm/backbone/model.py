"""The frozen language model, run only up to the hook: tokenised texts in, hidden states of the responses out."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparserm.backbone import smollm2
from sparserm.backbone.attention import IN_ROWS, NO_MASK, within
from sparserm.backbone.cores import on_cores
from sparserm.backbone.device import to_device, usable_device, weights_dtype
from sparserm.backbone.packing import ROW_TOKENS, Batch, Row, even, joined, pack, padded, similar
from sparserm.backbone.tokenization import PLAIN_TEMPLATE, ChatTokenizer, plain_template
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device, folder_note, home, noted_folder
from sparserm.support.files import one_line, write_text
from sparserm.support.hub import DownloadBars, HubName, hub_problem, not_a_name
from sparserm.support.parsing import given_path
from sparserm.support.quiet import without_bars
from sparserm.types import HookPoint, Progress, Prompt, SparseRMError, TokenizedText

#: Tokens per forward pass, padding included. On a CPU the activations between two layers of a small pass stay in cache: 40
#: pairs of ``safety`` took 7.4, 7.3, 7.3 and 8.0 s of one core in passes of 256, 512, 1,024 and 2,048 tokens, 25 of ``redteam``
#: 9.4, 9.4, 9.5 and 10.0 s. A GPU needs larger passes: on an H100 1,092 pairs of ``safety`` took .33, .22, .20 and .23 s in
#: passes of 8, 16, 32 and 64 thousand tokens, 530 of ``redteam`` .28, .18, .20 and .23 s.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 16_384


# The layers are not compiled. On two cores with AVX2 ``torch.compile`` took 0.92 of the time, after 38 s of compiling and with
# a C++ compiler installed: a small gain, and only in jobs of ten minutes or more. On an H100 it took 0.93 of the time for
# ``safety`` and 0.85 for ``redteam``, after 10 s, and changed states by 2 % (medians of five rounds).


#: Passes run in threads of their own if the longest is at most this many times what each thread would get of all tokens, and
#: that is at least this many tokens: each pass costs some milliseconds of Python, in which the others wait.
UNEVEN, LEAST_TOKENS = 1.5, 64

_T = TypeVar("_T")


class _StopForwardError(Exception):
    """Raised by the last hook to end the forward pass."""


@dataclass(frozen=True)
class _Reading:
    """What a pass is to read, and the states ``[B, T, d]`` that it has read."""

    hooks: frozenset[HookPoint]
    states: dict[HookPoint, Tensor] = field(default_factory=dict)


#: The pass that runs in this context, and what is added where in passes of this context.
_READING: ContextVar[_Reading | None] = ContextVar("reading", default=None)
_STEERING: ContextVar[tuple[Backbone, HookPoint, Tensor] | None] = ContextVar("steering", default=None)


@dataclass(frozen=True)
class Pass:
    """Hidden states from one forward pass.

    Attributes:
        texts: indices of the ``n`` texts of the pass.
        lengths: ``n`` token counts, of the response and the tokens that close its turn.
        states: for each hook point ``[sum(lengths), d]``, text after text, on the backbone's device and in its dtype.
    """

    texts: tuple[int, ...]
    lengths: tuple[int, ...]
    states: Mapping[HookPoint, Tensor]


class Backbone:
    """A causal language model of transformers, truncated above the highest layer that is read.

    Attributes:
        name: as given by the user, or ``smollm2-135m-instruct`` for the default; of a folder its last part.
        source: what it can be loaded by again: the name, or the path of the folder.
        fingerprint: identifies weights, tokenizer and chat template; the same for every dtype and device.
        n_layers: layers of the full model; ``d_model``: width of its residual stream.
        chat: tokenises (prompt, response).
        share_up_to: texts of at most so many tokens share a pass over their prompt; 0 if the model cannot keep them apart.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, fingerprint: str, through_layer: int | None = None) -> None:
        config = model.config.get_text_config()
        self.name = self.source = name
        self.fingerprint = fingerprint
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.chat = ChatTokenizer(tokenizer, context_length(config))
        self.model = model.eval().requires_grad_(False)
        self._lock = threading.RLock()  # passes that use the whole device take turns
        self._watched: set[HookPoint] = set()
        self.share_up_to = attention_window(config) if can_share_rows(model, config) else 0
        self._takes_attention = self.share_up_to > 0 and takes_attention(model, config)
        layers = decoder_layers(model)
        if through_layer is not None:
            del layers[through_layer + 1 :]
        self.through_layer = len(layers) - 1

    @classmethod
    def load(
        cls,
        name: str | Path = DEFAULT_BACKBONE,
        *,
        through_layer: int | None = None,
        dtype: torch.dtype | str = "auto",
        device: str | None = None,
        may_download: bool = True,
        progress: Progress | None = None,
    ) -> Backbone:
        """Load the default backbone, a folder, or a model from the Hugging Face Hub.

        Args:
            name: ``smollm2`` (the default), a folder written by ``save_pretrained``, or a Hub name (``USER/NAME``, or
                ``USER/NAME@REVISION`` for a branch, a tag or a commit).
            through_layer: the highest layer that will be read; the layers above it are not loaded.
            dtype: ``auto`` is bfloat16 where the hardware is fast at it and float32 elsewhere, see
                :func:`~sparserm.backbone.device.weights_dtype`.
            device: a PyTorch device name; by default ``SPARSERM_DEVICE``, or ``cpu`` if that is not set.
            may_download: whether a Hub name may be downloaded; if not, it has to be in the Hub's cache.
            progress: called during the download on first use.

        Raises:
            SparseRMError: the model or the device does not exist, or the model's layers cannot be found.
        """
        from transformers import AutoTokenizer

        device = usable_device(device or default_device())
        folder, display = resolve(name, progress, may_download=may_download)
        tokenizer = _from_folder(AutoTokenizer, folder, name)
        if dtype == "auto":
            dtype = weights_dtype(device, stored_dtype(folder))
        chosen = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        model = _load_layers(folder, name, through_layer, chosen)
        fingerprint = _fingerprint(folder, tokenizer)
        if Path(name).expanduser().is_dir():
            _note_folder(folder.resolve(), fingerprint)
        backbone = cls(model, tokenizer, name=display, fingerprint=fingerprint, through_layer=through_layer)
        if Path(name).expanduser().is_dir():
            backbone.source = str(folder.resolve())
        backbone.model.to(device)
        return backbone

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return next(self.model.parameters()).device

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a device beside which the host has time for other work."""
        return self.device.type != "cpu"

    @property
    def batch_tokens(self) -> int:
        """Tokens per forward pass on the model's device."""
        return CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS

    def tokenize(self, prompt: Prompt, response: str) -> TokenizedText:
        """Apply the chat template and tokenise; see :class:`~sparserm.backbone.tokenization.ChatTokenizer`."""
        return self.chat(prompt, response)

    def passes(
        self, texts: Sequence[TokenizedText], hooks: Sequence[HookPoint], *, progress: Progress | None = None
    ) -> Iterator[Pass]:
        """Run the texts in the fastest order; on a GPU a pass may still be running when it is yielded.

        Responses to the same prompt share one copy of it, and texts of similar length share a batch; a text's states do not
        depend on the other texts (see :mod:`sparserm.backbone.packing`).

        Raises:
            SparseRMError: a hook is above the layers that this backbone was loaded through.
        """
        yield from self.each_pass(texts, hooks, lambda one: one, progress=progress)

    def each_pass(
        self,
        texts: Sequence[TokenizedText],
        hooks: Sequence[HookPoint],
        function: Callable[[Pass], _T],
        *,
        progress: Progress | None = None,
    ) -> Iterator[_T]:
        """:meth:`passes`, with a function of each pass that is computed where the pass was; on a CPU in several threads.

        Raises:
            SparseRMError: a hook is above the layers that this backbone was loaded through.
        """
        self._check_hooks(hooks)
        for hook in hooks:
            self._watch(hook)
        # A longer row would need positions beyond the model's context, if only for padding.
        row_tokens = min(ROW_TOKENS, self.chat.max_length)
        groups, cores = self._groups(pack(texts, share_up_to=self.share_up_to, row_tokens=row_tokens))

        def run(group: Sequence[Row]) -> tuple[int, _T]:
            with nullcontext() if cores > 1 else self._lock:
                found = self._pass(joined(group) if self._joins(group) else padded(group), hooks)
            return len(found.texts), function(found)

        done = 0
        with closing(on_cores(run, groups, cores)) as results:
            for n, result in results:
                yield result
                done += n
                if progress:
                    progress(done, len(texts), "Representations (responses)")

    def _joins(self, rows: Sequence[Row]) -> bool:
        """Whether the rows of a batch are joined rather than padded: where our attention stands in for PyTorch's, on a CPU.

        It sees a whole text: one beyond the model's window has to be left to the model.
        """
        return self._takes_attention and self.device.type == "cpu" and all(row.longest <= self.share_up_to for row in rows)

    def _groups(self, rows: Sequence[Row]) -> tuple[list[list[Row]], int]:
        """The rows of each pass, and the number of threads to run the passes in.

        Texts beyond the model's window have passes of their own, in which it makes its mask.
        """
        short = [row for row in rows if row.longest <= self.share_up_to]
        long = list(similar([row for row in rows if row.longest > self.share_up_to], self.batch_tokens))
        if self.device.type != "cpu":
            return [*similar(short, self.batch_tokens), *long], 1
        cores, total = torch.get_num_threads(), sum(len(row.ids) for row in rows)
        joins = self._joins(short)
        groups = [*(even(short, self.batch_tokens, cores) if joins else similar(short, self.batch_tokens)), *long]
        most = max((sum(len(row.ids) for row in group) for group in groups), default=0)
        if most * cores <= UNEVEN * total and total >= LEAST_TOKENS * cores:
            return groups, cores
        # PyTorch divides each operation instead.
        return ([*even(short, self.batch_tokens, 1), *long] if joins else groups), 1

    def _pass(self, batch: Batch, hooks: Sequence[HookPoint]) -> Pass:
        """Run a batch and keep the states of the texts' own tokens only, to save memory."""
        states = self.run(batch, hooks)
        used = to_device(batch.positions(), self.device)
        spans = [span for row in batch.rows for span in row.spans]
        return Pass(
            tuple(i for i, _, _ in spans),
            tuple(end - start for _, start, end in spans),
            {hook: state.flatten(0, 1)[used] for hook, state in states.items()},
        )

    def hidden_states(
        self, texts: Sequence[TokenizedText], hooks: Sequence[HookPoint], *, progress: Progress | None = None
    ) -> Iterator[tuple[int, dict[HookPoint, Tensor]]]:
        """Yield ``(i, {hook: [T, d] float32})`` for each text, in the order of :meth:`passes`.

        ``T`` counts the response's tokens and those that close its turn.

        Raises:
            SparseRMError: a hook is above the layers that this backbone was loaded through, or a state is NaN or infinite.
        """
        for one in self.passes(texts, hooks, progress=progress):
            # One check for the whole pass: on a GPU each check waits for all pending work.
            finite = not one.states or bool(torch.stack([torch.isfinite(state).all() for state in one.states.values()]).all())
            parts = {hook: state.split(one.lengths) for hook, state in one.states.items()}
            for place, i in enumerate(one.texts):
                own = {hook: part[place].float() for hook, part in parts.items()}
                if not finite:
                    self.check_finite(i, len(texts), own)
                yield i, own

    def run(self, batch: Batch, hooks: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
        """One forward pass, stopped at the deepest hook: ``{hook: [B, T, d]}``."""
        batch = batch.to(self.device)
        inputs: dict[str, Tensor] = {"input_ids": batch.input_ids}
        if batch.joined:
            inputs |= {"attention_mask": NO_MASK, "position_ids": batch.position_ids}
        elif (mask := batch.mask) is not None:
            if self.model.config._attn_implementation == "eager":  # expects an additive mask
                mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill_(~mask, torch.finfo(self.dtype).min)
            inputs |= {"attention_mask": mask, "position_ids": batch.position_ids}
        if self._takes_attention:  # the same in every pass, since a backbone stays on its device
            self.model.config._attn_implementation = IN_ROWS if self.device.type == "cpu" else "sdpa"
        reading = _Reading(frozenset(hooks))
        token = _READING.set(reading)
        try:
            with torch.inference_mode(), within(batch.rows, self.dtype) if batch.joined else nullcontext():
                self.model(**inputs, use_cache=False)
        except _StopForwardError:
            pass
        finally:
            _READING.reset(token)
        return reading.states

    @contextmanager
    def steering(self, hook: HookPoint, vector: Tensor) -> Iterator[None]:
        """Add ``vector [d]`` to the activations at ``hook``, at every token, in the passes of this context.

        Raises:
            SparseRMError: the hook is above the layers that this backbone was loaded through.
        """
        self._check_hooks([hook])
        self._watch(hook)
        token = _STEERING.set((self, hook, vector))
        try:
            yield
        finally:
            _STEERING.reset(token)

    def _watch(self, hook: HookPoint) -> None:
        """Have the activations at ``hook`` steered and read in passes that ask for it; the model keeps its hooks."""
        with self._lock:  # another thread's pass must not begin before the hook is there
            if hook not in self._watched:
                self._register(hook)
                self._watched.add(hook)

    def _register(self, hook: HookPoint) -> None:
        module = hooked_module(self.model, hook)

        def visit(value: Any) -> Any:
            state = value[0] if isinstance(value, tuple) else value
            steering = _STEERING.get()
            if steered := steering is not None and steering[:2] == (self, hook):
                state = state + steering[2].to(state)
            if (reading := _READING.get()) and hook in reading.hooks:
                reading.states[hook] = state
                if len(reading.states) == len(reading.hooks):
                    raise _StopForwardError
            return None if not steered else (state, *value[1:]) if isinstance(value, tuple) else state

        def visit_input(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if inputs:
                return None if (found := visit(inputs)) is None else (found, named)
            found = visit(named["hidden_states"])
            return None if found is None else (inputs, {**named, "hidden_states": found})

        if hook.site == "resid_pre":
            module.register_forward_pre_hook(visit_input, with_kwargs=True)
        else:
            module.register_forward_hook(lambda _module, _inputs, output: visit(output))

    def _check_hooks(self, hooks: Sequence[HookPoint]) -> None:
        for hook in hooks:
            if hook.layer > self.through_layer:
                raise SparseRMError(
                    f"{hook.name} cannot be read from backbone {self.name}, which has {self.n_layers} layers and was loaded "
                    f"through layer {self.through_layer}; choose a lower layer or load it with a higher through_layer"
                )

    def check_finite(self, i: int, n: int, states: Mapping[HookPoint, Tensor]) -> None:
        """Check the states of text ``i`` of ``n``.

        Raises:
            SparseRMError: a state is NaN or infinite.
        """
        for hook, state in states.items():
            if not bool(torch.isfinite(state).all()):
                # A masked NaN times zero is still NaN, so it may come from another response in the row.
                fix = "check its weights" if self.dtype == torch.float32 else "load it with dtype='float32'"
                raise SparseRMError(
                    f"{hook.name} of backbone {self.name} is NaN or infinite for text {i + 1} of {n} or another response to "
                    f"its prompt; expected finite numbers; {fix}"
                )


def _load_layers(folder: Path, name: str | Path, through_layer: int | None, dtype: torch.dtype) -> Any:
    """Load the model; of the layers above ``through_layer`` neither weights are read nor memory is taken."""
    from transformers import AutoConfig, AutoModel

    config = _from_folder(AutoConfig, folder, name)
    kind = AutoModel._model_mapping.get(type(config), None)
    if through_layer is None or not isinstance(kind, type):
        return _from_folder(AutoModel, folder, name, dtype=dtype, use_safetensors=True)

    # The class builds all layers, without memory, since a layer may depend on how many there are; then those above go.
    def build(self: Any, *given: Any, **settings: Any) -> None:
        kind.__init__(self, *given, **settings)
        del decoder_layers(self)[through_layer + 1 :]

    cut = type(kind.__name__, (kind,), {"__init__": build, "_keys_to_ignore_on_load_unexpected": [""]})
    return _from_folder(cut, folder, name, config=config, dtype=dtype, use_safetensors=True)


def stored_dtype(folder: Path) -> torch.dtype:
    """bfloat16 if all weights in the folder are stored in it, else float32."""
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:  # loading says what is wrong
            names = file.keys()  # not a mapping: it cannot be iterated itself
            found.update(file.get_slice(name).get_dtype() for name in names)
    return torch.bfloat16 if found == {"BF16"} else torch.float32


def load_language_model(name: str | Path, *, progress: Progress | None = None) -> nn.Module:
    """Load the full model with its unembedding, in float32, to sample from it or to compute its loss.

    Raises:
        SparseRMError: as for :meth:`Backbone.load`.
    """
    from transformers import AutoModelForCausalLM

    folder, _ = resolve(name, progress)
    model: nn.Module = _from_folder(AutoModelForCausalLM, folder, name, dtype=torch.float32, use_safetensors=True)
    return model.eval().requires_grad_(False)


def load_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer of a model.

    Raises:
        SparseRMError: the model does not exist or has no tokenizer.
    """
    from transformers import AutoTokenizer

    return _from_folder(AutoTokenizer, resolve(name)[0], name)


def _from_folder(auto: Any, folder: Path, name: str | Path, **settings: Any) -> Any:
    """Call ``auto.from_pretrained`` on the folder, without progress bars."""
    try:
        with without_bars():
            return auto.from_pretrained(folder, trust_remote_code=False, **settings)  # None would prompt on the terminal
    except Exception as error:  # entries of the wrong type fail in many ways
        reason = one_line(error) or type(error).__name__
        raise SparseRMError(
            f"the backbone {str(name)!r} cannot be loaded from {folder} ({reason}); expected "
            "config.json, tokenizer files and safetensors weights as save_pretrained writes them"
        ) from error


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of transformer layers, whatever its name in the model family (``layers``, ``h``).

    Raises:
        SparseRMError: the model has no list of ``num_hidden_layers`` modules.
    """
    if isinstance(found := getattr(model, "_sparserm_layers", None), nn.ModuleList):
        return found
    expected = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == expected:
            # Stored outside the module tree; still found after layers have been removed.
            object.__setattr__(model, "_sparserm_layers", module)
            return module
    raise SparseRMError(
        f"no list of {expected} layers was found in a {type(model).__name__}; expected a decoder-only language model of "
        "transformers such as Llama, Qwen, Gemma, GPT-2 or NeoX"
    )


#: What transformers' layers apply to the output of the MLP before they add it: norms of Gemma 2 to 4, OLMo 2 and 3, EXAONE 4;
#: GLM-4, AFMoE; HyperCLOVA X; LFM3; the convolutions of Inkling.
_AFTER_MLP = (
    *("post_feedforward_layernorm", "post_mlp_layernorm", "post_norm2", "post_ffn_norm"),
    *("mlp_sconv", "post_mlp_convolution"),
)
#: Settings with which Molmo 2 and Chameleon apply the norm before the MLP after it instead.
_NORM_AFTER = ("norm_after", "swin_norm")
#: What layers multiply with before they add it: Granite and HyperCLOVA X; MiniCPM 3.
_SCALES = ("residual_multiplier", "residual_scale")


def hooked_module(model: Any, hook: HookPoint) -> Any:
    """The module whose output (input for ``resid_pre``) is the activation at the hook point.

    ``hook_mlp_out`` is after what the layer applies to the output of its MLP, as in TransformerLens.

    Raises:
        SparseRMError: the layer has no such module.
    """
    layer: Any = decoder_layers(model)[hook.layer]
    if hook.site not in ("mlp", "mlp_out"):
        return layer
    names = ("mlp",)
    if hook.site == "mlp_out":
        config = model.config.get_text_config()
        moved = ("post_attention_layernorm",) if any(getattr(config, name, False) for name in _NORM_AFTER) else ()
        names = (*_AFTER_MLP, *moved, "mlp")
        if scaled := next((name for name in _SCALES if getattr(layer, name, 1.0) != 1.0), None):
            raise SparseRMError(
                f"{hook.name} is no output of a module in a {type(layer).__name__}, which multiplies it by its {scaled}; "
                f"expected a layer that adds it as it is; choose an SAE on blocks.{hook.layer}.mlp.hook_out or "
                "hook_resid_post"
            )
    found = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if found is None:
        raise SparseRMError(
            f"{hook.name} cannot be read from a {type(layer).__name__}, which has no module called mlp; expected one as in "
            f"Llama, Qwen or Gemma; choose an SAE on the residual stream, such as blocks.{hook.layer}.hook_resid_post"
        )
    return found


#: Kinds of layers, as configurations name them, that see all of a text within the model's window.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def can_share_rows(model: Any, config: Any) -> bool:
    """Whether our mask and positions suffice to separate the responses of a row; otherwise each text has its own row.

    They do not with local attention that is not in the mask (GPT-Neo); where a token sees later ones; with convolutions and
    recurrences, whose state no mask stops; with ALiBi, which derives distances from the mask; and with attention kernels other
    than PyTorch's, which do not accept such a mask. Of sliding-window and chunked attention see :func:`attention_window`.
    """
    limited = any(getattr(config, name, None) for name in ("window_size", "alibi"))
    causal = all(getattr(module, "is_causal", True) for module in model.modules())
    only_attention = set(getattr(config, "layer_types", None) or ()) <= _ATTENTION
    stateful = getattr(model, "_is_stateful", False)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    takes_mask = model.config._attn_implementation in ("sdpa", "eager")
    return not limited and causal and only_attention and not stateful and takes_positions and takes_mask


def attention_window(config: Any) -> float:
    """Number of tokens up to which every token of a text sees all before it; infinite without sliding windows and chunks."""
    try:
        sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    except RuntimeError:  # transformers' answer if it differs between layers
        return 0
    return min((size for size in sizes if size), default=math.inf)


def takes_attention(model: Any, config: Any) -> bool:
    """Whether our attention can stand in for PyTorch's: the model asks transformers for it, by the name in its own config."""
    backend = getattr(model, "_supports_attention_backend", False)
    return bool(backend and config is model.config and config._attn_implementation == "sdpa")


def context_length(config: Any) -> int:
    """The model's context length in tokens."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return 2048


def resolve(name: str | Path, progress: Progress | None = None, *, may_download: bool = True) -> tuple[Path, str]:
    """The folder with the model's files, downloaded if necessary, and the name to show.

    Args:
        may_download: false for a name that nobody gave but a head, which may come from a stranger: it is looked for in the
            Hub's cache only. The default backbone is always downloaded.

    Raises:
        SparseRMError: the name is not the default, not a folder, and not a model that can be downloaded from the Hub.
    """
    if str(name) in (DEFAULT_BACKBONE, smollm2.NAME):
        return smollm2.ensure_default_backbone(progress), smollm2.NAME
    folder = given_path(name)
    if folder.is_dir():
        return folder, folder.resolve().name
    asked = HubName.parse(str(name))
    if str(name).startswith((".", "/", "~")) or (asked is None and str(name).count("/") > 1):
        raise SparseRMError(f"no folder {folder}: expected a folder written by save_pretrained; check the path")
    if asked is None:
        raise _no_backbone(name, not_a_name(one_line(name)))
    return _snapshot(asked, may_download, progress), str(name)


def look_for(name: str | Path) -> None:
    """Look for a model without downloading its weights.

    Raises:
        SparseRMError: as :func:`resolve`, or the model has no ``config.json``.
    """
    from huggingface_hub import hf_hub_download

    asked = HubName.parse(str(name))
    if asked is None or str(name) in (DEFAULT_BACKBONE, smollm2.NAME) or given_path(name).is_dir():
        resolve(name)
        return
    try:
        hf_hub_download(asked.repository, "config.json", revision=asked.revision)
    except Exception as error:  # the Hub's client raises many types of error
        raise _no_backbone(name, hub_problem(error, str(asked))) from error


def _snapshot(asked: HubName, may_download: bool, progress: Progress | None) -> Path:
    """The folder in the Hub's cache with the files of a model, downloaded if they are not there and may be."""
    from huggingface_hub import snapshot_download

    bars = DownloadBars(progress, "Download of the language model (MB)") if progress else None
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        found = snapshot_download(
            asked.repository,
            revision=asked.revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],  # folders hold the same weights in other formats, or other things
            local_files_only=not may_download,
            tqdm_class=bars.bar if bars else None,
        )
    except Exception as error:  # the Hub's client raises many types of error
        if bars and bars.stopped:
            raise bars.stopped from None
        if not may_download:
            raise SparseRMError(
                f"backbone {str(asked)!r} was not found on this machine, and is not downloaded because only a head names it; "
                f"expected its files in the cache of the Hugging Face Hub; if you trust it, download it with {asked.download()}"
            ) from error
        raise _no_backbone(str(asked), hub_problem(error, str(asked))) from error
    if bars and bars.stopped:  # some of the client's ways to download go on regardless
        raise bars.stopped
    return Path(found)


def _no_backbone(name: str | Path, reason: str) -> SparseRMError:
    return SparseRMError(
        f"backbone {one_line(name)!r} was not found: it is not {DEFAULT_BACKBONE!r}, not a folder, and cannot be downloaded "
        f"from the Hugging Face Hub: {reason}"
    )


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over weights, tokenizer, template and configuration (16 hex digits); cached until a file changes."""
    if folder.name == smollm2.NAME and folder.parent == home() / "backbones":
        return smollm2.FINGERPRINT
    suffixes, unread = (".safetensors", ".json", ".jinja", ".model"), ("generation_config.json", "README.md")
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.name not in unread)
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), state, "with a checksum"]).encode()).hexdigest()[:32]
    known = home() / "fingerprints" / key
    with suppress(OSError, ValueError):
        found, checksum = known.read_text().split()
        if checksum == _checksum(key, found):
            return found
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    fingerprint = digest.hexdigest()[:16]
    with suppress(OSError):  # only to save time
        write_text(known, f"{fingerprint} {_checksum(key, fingerprint)}")
    return fingerprint


def _fingerprint(folder: Path, tokenizer: Any) -> str:
    """:func:`folder_fingerprint`, and for a model without a template of its own how the plain one opens a text."""
    files = folder_fingerprint(folder)
    if tokenizer.chat_template or (template := plain_template(tokenizer)) == PLAIN_TEMPLATE:
        return files
    return hashlib.sha256(f"{files} {template}".encode()).hexdigest()[:16]


def _checksum(key: str, fingerprint: str) -> str:
    return hashlib.sha256(f"{key} {fingerprint}".encode()).hexdigest()[:8]


def _note_folder(folder: Path, fingerprint: str) -> None:
    """Record the full path of a backbone given as a folder: heads store only the last part of it."""
    if noted_folder(fingerprint) != folder:
        with suppress(OSError):  # heads then need the folder again
            write_text(folder_note(fingerprint), str(folder))
