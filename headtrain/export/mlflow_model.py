"""The code of an MLflow model of a critic: MLflow runs this file, so nothing is pickled."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from headtrain.scoring.critic import Critic
from headtrain.scoring.verdict import Verdict


class CriticModel(PythonModel):
    """Scores rows of prompt and output; each prompt is computed once."""

    critic: Critic

    def load_context(self, context: PythonModelContext) -> None:
        """Load the head in the model and its backbone, where the head or the config has it."""
        config = context.model_config or {}
        self.critic = Critic.load(
            context.artifacts["head"],
            backbone=config.get("backbone"),
            tokenizer=config.get("tokenizer"),
            device=config.get("device", "auto"),
        )

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score a table with the columns prompt and output: one row value, probability each."""
        verdicts: dict[Any, Verdict] = {}
        for prompt, rows in model_input.groupby("prompt", sort=False):
            found = self.critic.judge(str(prompt), [str(text) for text in rows["output"]])
            verdicts |= dict(zip(rows.index, found, strict=True))
        ordered = [verdicts[row] for row in model_input.index]
        return pd.DataFrame(
            {
                "value": [verdict.value for verdict in ordered],
                "probability": [verdict.probability for verdict in ordered],
            }
        )


set_model(CriticModel())
