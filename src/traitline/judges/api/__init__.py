"""What it takes to ask a judge on a server: connections, turns, batches, what a request may cost and what it did.

Knows servers, prices and failures. Leaves what is asked and what an answer means to `judges/openai.py`, which everything here
works for, and keeping answers to `judges/cache.py`. A reader starts at `asking.py`.
"""
