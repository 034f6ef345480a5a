"""What pulls cost, side by side with other clients and with what the machine could do at best.

``python -m benchmarks`` measures; ``README.md`` beside this file says how to read the figures. The rooms: ``shelf``
makes the content, ``servers`` and ``delay`` serve it; ``jobs`` are what is measured, each run in a ``child`` process of
its own; ``scenarios`` say what is compared with what, ``runner`` has them take turns. ``results``, ``figures``,
``floors``, ``compare``, ``table``, ``plot`` and ``report`` only turn figures into other figures, and into text.
"""
