"""The model: motion tokenizer, retargeter, expression, video DiT, and the whole (:class:`~imanim.models.animator.Animator`)."""
