"""What to do about a failed check, for the program that serves the teacher.

An option of vLLM's is named only to those who run vLLM. The owner of a hosted API, or of another server, is told what
the API has to do.
"""

# By what is missing: the advice for vLLM, for llama.cpp, and for any other API.
_ADVICE = {
    "forced_calls": {
        "vllm": "vLLM needs --enable-auto-tool-choice, the model's --tool-call-parser and --tool-strict-level"
        " parameter, else the arguments of a forced call are not constrained",
        "llama.cpp": "llama-server needs --jinja and a chat template that lists tools (--chat-template-file), and the"
        " teacher's description `call_prefix` if the model writes text before a call",
        "openai": "the API has to honour tool_choice and keep arguments to the tool's schema: try another model of it,"
        " or leave those tools out",
    },
    "strict_calls": {
        "vllm": "vLLM needs --tool-strict-level parameter to decode calls under their tools' schemas",
        "llama.cpp": "llama-server constrains forced calls only: a larger model, or generate.constrain=true",
        "openai": "the model writes calls that do not fit their schemas: try another model of the API",
    },
    "reasoning": {
        "vllm": "start vLLM with the model's --reasoning-parser and chat template",
        "llama.cpp": "start llama-server with --jinja, --reasoning-format deepseek and the model's chat template",
        "openai": "the API has to return reasoning as reasoning_content or reasoning: choose a mode or a model that"
        " does, or set capabilities.thinking to false in the teacher's description",
    },
    "reasoning_field": {
        "vllm": "vLLM needs the model's --reasoning-parser",
        "llama.cpp": "llama-server needs --jinja and --reasoning-format deepseek",
        "openai": "the API itself may drop it",
    },
    "tool_calls": {
        "vllm": "vLLM has --enable-auto-tool-choice and the model's --tool-call-parser",
        "llama.cpp": "llama-server has --jinja and a chat template that lists tools (--chat-template-file)",
        "openai": "the API supports tools for this model",
    },
    "images": {
        "vllm": "start vLLM without --language-model-only, with room for images in --limit-mm-per-prompt",
        "llama.cpp": "start llama-server with the model's vision tower (--mmproj)",
        "openai": "choose a model of the API that reads images, or set capabilities.vision to false in the teacher's"
        " description",
    },
    "name": {
        "vllm": "give its name there as --model, or start vLLM with --served-model-name",
        "llama.cpp": "give its name there as --model, or start llama-server with --alias",
        "openai": "give its name there as --model",
    },
}


def advice(about: str, engine: str) -> str:
    """What to do. about: a key of the table above. engine: of the endpoint (teacher/inference/endpoint.py)."""
    return _ADVICE[about].get(engine) or _ADVICE[about]["openai"]
