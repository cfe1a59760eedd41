"""Two steps of TRL's GRPO with a tiny policy; trl must be installed."""

from pathlib import Path
from typing import Any

from tests.support.tiny_models import make_tokenizer, write_tiny_llama

CHAT = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def run_grpo(folder: Path, reward: Any, rows: list[dict[str, Any]]) -> Any:
    """Train for two steps; return the trainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = CHAT
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=2,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        temperature=1.0,
    )
    trainer = GRPOTrainer(
        model=str(write_tiny_llama(folder / "policy", seed=7)),
        reward_funcs=[reward],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def logged_rewards(trainer: Any) -> list[dict[str, float]]:
    """Return what was logged at each step."""
    return [entry for entry in trainer.state.log_history if "reward" in entry]
