"""How models write conversations as text: their chat templates, and transcripts, as their own repositories render them."""

from __future__ import annotations

from dataclasses import dataclass

from sparserm.types import Prompt


@dataclass(frozen=True)
class Template:
    """The texts around each turn; ``{}`` stands for what it says.

    Attributes:
        begin: what stands before the first turn.
        system: the system message; empty if the template has none.
        asks: what asks for an answer, at the end of a prompt.
        end: what a model writes after its answer.
        thinks: thinking before an answer.
        says: what stands before an answer without thinking.
    """

    begin: str
    system: str
    user: str
    assistant: str
    asks: str
    end: str = ""
    thinks: str = "<think>\nHm.\n</think>\n\n"
    says: str = ""

    def prompt(self, turns: Prompt) -> str:
        """A prompt up to where the answer begins."""
        texts = {"system": self.system, "user": self.user, "assistant": self.assistant}
        return self.begin + "".join(texts[turn.role].replace("{}", turn.content) for turn in turns) + self.asks


def _chatml(begin: str = "", after: str = "\n", between: str = "\n") -> Template:
    start, end = "<|im_start|>", f"<|im_end|>{between}"
    turns = (f"{start}{role}{after}{{}}{end}" for role in ("system", "user", "assistant"))
    return Template(begin, *turns, f"{start}assistant{after}", f"<|im_end|>{between}")


TEMPLATES = {
    "Qwen 3, SmolLM, Yi, MiniCPM 3": _chatml(),
    "InternLM 2": _chatml("<s>"),
    "LFM 2": _chatml("<|startoftext|>"),
    "Phi-4": _chatml("", "<|im_sep|>", ""),
    "Llama 3": Template(
        "<|begin_of_text|>",
        "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "Llama 2": Template("<s>", "", "[INST] {} [/INST]", " {} </s><s>", "", " </s>"),
    "Mistral 7B": Template("<s>", "", "[INST] {} [/INST]", "{}</s>", "", "</s>"),
    "Mistral from version 7": Template(
        "<s>", "[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", "[INST]{}[/INST]", "{}</s>", "", "</s>", "[THINK]Hm.[/THINK]"
    ),
    "Gemma 3": Template(
        "<bos>",
        "",
        "<start_of_turn>user\n{}<end_of_turn>\n",
        "<start_of_turn>model\n{}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "<end_of_turn>\n",
    ),
    "Gemma 4": Template(
        "<bos>",
        "<|turn>system\n{}<turn|>\n",
        "<|turn>user\n{}<turn|>\n",
        "<|turn>model\n{}<turn|>\n",
        "<|turn>model\n",
        "<turn|>\n",
        "<|channel>thought\nHm.<channel|>",
    ),
    "DeepSeek V3, R1": Template(
        "<｜begin▁of▁sentence｜>",
        "{}",
        "<｜User｜>{}",
        "<｜Assistant｜>{}<｜end▁of▁sentence｜>",
        "<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "DeepSeek V2": Template(
        "<｜begin▁of▁sentence｜>",
        "{}\n\n",
        "User: {}\n\n",
        "Assistant: {}<｜end▁of▁sentence｜>",
        "Assistant:",
        "<｜end▁of▁sentence｜>",
    ),
    "DeepSeek Coder": Template(
        "", "{}\n", "### Instruction:\n{}\n", "### Response:\n{}\n<|EOT|>\n", "### Response:\n", "\n<|EOT|>\n"
    ),
    "Granite": Template(
        "",
        "<|start_of_role|>system<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>user<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>{}<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|end_of_text|>\n",
    ),
    "GLM-4": Template("[gMASK]<sop>", "<|system|>\n{}", "<|user|>\n{}", "<|assistant|>\n{}", "<|assistant|>\n"),
    "GLM-4.5": Template(
        "[gMASK]<sop>",
        "<|system|>\n{}",
        "<|user|>\n{}",
        "<|assistant|>\n<think></think>\n{}",
        "<|assistant|>",
        "",
        "\n<think>Hm.</think>\n",
    ),
    "GLM-4.7": Template(
        "[gMASK]<sop>",
        "<|system|>{}",
        "<|user|>{}",
        "<|assistant|></think>{}",
        "<|assistant|><think>",
        "<|user|>",
        "Hm.</think>",
        "</think>",
    ),
    "OLMo 2": Template(
        "<|endoftext|>",
        "<|system|>\n{}\n",
        "<|user|>\n{}\n",
        "<|assistant|>\n{}<|endoftext|>\n",
        "<|assistant|>\n",
        "<|endoftext|>",
    ),
    "Zephyr": Template(
        "", "<|system|>\n{}</s>\n", "<|user|>\n{}</s>\n", "<|assistant|>\n{}</s>\n", "<|assistant|>\n", "</s>\n"
    ),
    "Phi-3": Template(
        "", "<|system|>\n{}<|end|>\n", "<|user|>\n{}<|end|>\n", "<|assistant|>\n{}<|end|>\n", "<|assistant|>\n", "<|end|>\n"
    ),
    "Phi-4 mini": Template(
        "", "<|system|>{}<|end|>", "<|user|>{}<|end|>", "<|assistant|>{}<|end|>", "<|assistant|>", "<|end|>"
    ),
    "Falcon 3": Template("", "<|system|>\n{}\n", "<|user|>\n{}\n", "<|assistant|>\n{}<|endoftext|>\n", "<|assistant|>\n"),
    "Falcon": Template("", "System: {}\n\n", "User: {}\n\n", "Assistant: {}\n\n", "Assistant:"),
    "Jamba": Template(
        "<|startoftext|>",
        "<|bom|><|system|> {}<|eom|>",
        "<|bom|><|user|> {}<|eom|>",
        "<|bom|><|assistant|> {}<|eom|>",
        "<|bom|><|assistant|>",
        "<|eom|>",
    ),
    "Kimi K2": Template(
        "",
        "<|im_system|>system<|im_middle|>{}<|im_end|>",
        "<|im_user|>user<|im_middle|>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|><think></think>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
        "<|im_end|>",
    ),
    "EXAONE": Template(
        "",
        "[|system|]{}[|endofturn|]\n",
        "[|user|]{}\n",
        "[|assistant|]{}[|endofturn|]\n",
        "[|assistant|]",
        "[|endofturn|]\n",
        "<thought>\nHm.\n</thought>\n",
    ),
    "Command A": Template(
        "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>",
        "<|START_RESPONSE|>",
    ),
    "gpt-oss": Template(
        "",
        "<|start|>system<|message|>{}<|end|>",
        "<|start|>user<|message|>{}<|end|>",
        "<|start|>assistant<|channel|>final<|message|>{}<|end|>",
        "<|start|>assistant",
        "<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
    "Nemotron": Template(
        "",
        "<extra_id_0>System\n{}\n\n",
        "<extra_id_1>User\n{}\n",
        "<extra_id_1>Assistant\n{}\n",
        "<extra_id_1>Assistant\n",
        "\n<extra_id_1>",
    ),
    "Nemotron Nano 2": Template(
        "",
        "<SPECIAL_10>System\n{}\n\n",
        "<SPECIAL_11>User\n{}\n",
        "<SPECIAL_11>Assistant\n{}\n<SPECIAL_12>\n\n",
        "<SPECIAL_11>Assistant\n<think></think>",
        "\n<SPECIAL_12>\n\n",
    ),
    "Seed-OSS": Template(
        "",
        "<seed:bos>system\n{}<seed:eos>",
        "<seed:bos>user\n{}<seed:eos>",
        "<seed:bos>assistant\n{}<seed:eos>",
        "<seed:bos>assistant\n",
        "<seed:eos>",
        "<seed:think>Hm.</seed:think>",
    ),
    "InternLM": Template("<s>", "", "<|User|>:{}<eoh>\n", "<|Bot|>:{}<eoa>\n", "<|Bot|>:", "<eoa>\n"),
    "MiniCPM": Template("<s>", "", "<用户>{}", "<AI>{}", "<AI>", "</s>"),
    "OpenChat": Template(
        "<s>",
        "",
        "GPT4 Correct User: {}<|end_of_turn|>",
        "GPT4 Correct Assistant: {}<|end_of_turn|>",
        "GPT4 Correct Assistant:",
        "<|end_of_turn|>",
    ),
    "Baichuan 2": Template("", "", "<reserved_106>{}", "<reserved_107>{}</s>", "<reserved_107>", "</s>"),
    "MiniMax M2": Template(
        "]~!b[",
        "]~b]system\n{}[e~[\n",
        "]~b]user\n{}[e~[\n",
        "]~b]ai\n{}[e~[\n",
        "]~b]ai\n",
        "[e~[",
        "<think>\nHm.\n</think>\n\n",
    ),
    "Reka": Template("", "", "human: {} <sep> ", "assistant: {} <sep> ", "assistant:", " <sep>"),
    "Koala": Template("BEGINNING OF CONVERSATION: ", "", "USER: {} ", "GPT: {}</s>", "GPT:", "</s>"),
    "HH-RLHF": Template("", "{}", "\n\nHuman: {}", "\n\nAssistant: {}", "\n\nAssistant:"),
    "Vicuna": Template("", "{} ", "USER: {} ", "ASSISTANT: {}</s>", "ASSISTANT:", "</s>"),
    "Vicuna without its marks": Template("", "{}\n\n", "USER: {}\n", "ASSISTANT: {}\n", "ASSISTANT:"),
    "Guanaco": Template("", "{}\n", "### Human: {}", "### Assistant: {}", "### Assistant:"),
    "StableBeluga": Template("", "### System:\n{}\n\n", "### User:\n{}\n\n", "### Assistant:\n{}\n\n", "### Assistant:\n"),
    "Alpaca": Template("", "{}\n\n", "### Instruction:\n{}\n\n", "### Response:\n{}\n\n", "### Response:\n"),
}
