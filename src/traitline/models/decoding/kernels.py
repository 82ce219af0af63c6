"""Two Triton kernels: attention of one new token per row over a shared prompt and the row's own tokens, and sampling.

Knows memory layouts and rounding. Both have the same meaning as the plain PyTorch beside them (`attention.attend_plain`,
`sampler.pick`), which tests hold them to. Imported only where a GPU is used: Triton comes with PyTorch's builds for it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 16
"""Positions read at a time by attention. Small tiles and one warp a program are twice as fast as 32 and four warps."""
CHUNK = 4096
"""Vocabulary entries that one program of the sampler reduces."""


@triton.jit
def _attend(
    q, k_new, v_new, out, prompt_k, prompt_v, own_k, own_v, prompt_of, prompt_length, own_length, done, scale, window,
    q_row, q_head, k_row, k_head, v_row, v_head, prompt_slot, prompt_head, own_slot, own_head,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one row and one key-value head, with the HEADS query heads that share it (padded to GROUP)."""
    row, head = tl.program_id(0), tl.program_id(1)
    g, d = tl.arange(0, GROUP), tl.arange(0, DIM)
    inside = (g < HEADS)[:, None] & (d < D)[None, :]
    where = row.to(tl.int64) * q_row + (head * HEADS + g)[:, None] * q_head + d[None, :]
    target = row.to(tl.int64) * (tl.num_programs(1) * HEADS * D) + (head * HEADS + g)[:, None] * D + d[None, :]
    if tl.load(done + row) != 0:
        tl.store(out + target, tl.zeros([GROUP, DIM], dtype=out.dtype.element_ty), mask=inside)
        return
    queries = tl.load(q + where, mask=inside, other=0.0)
    key = tl.load(k_new + row.to(tl.int64) * k_row + head * k_head + d, mask=d < D, other=0.0)
    value = tl.load(v_new + row.to(tl.int64) * v_row + head * v_head + d, mask=d < D, other=0.0)
    mine, length = tl.load(own_length + row), tl.load(prompt_length + row)
    own = row.to(tl.int64) * own_slot + head * own_head
    tl.store(own_k + own + mine * D + d, key, mask=d < D)
    tl.store(own_v + own + mine * D + d, value, mask=d < D)
    m = tl.sum(queries.to(tl.float32) * key[None, :].to(tl.float32), 1) * scale
    total = tl.full([GROUP], 1.0, tl.float32)
    acc = tl.zeros([GROUP, DIM], tl.float32) + value[None, :].to(tl.float32)
    shared = tl.load(prompt_of + row).to(tl.int64) * prompt_slot + head * prompt_head
    last = length + mine  # the new token's position: the keys before it are those of the prompt, then the row's own
    for start in tl.range(tl.maximum(last - window + 1, 0), last, BLOCK, num_stages=3):
        at = start + tl.arange(0, BLOCK)
        before = (at < last)[:, None] & (d < D)[None, :]
        of_prompt = (at < length)[:, None]
        there, here = shared + at[:, None] * D + d[None, :], own + (at - length)[:, None] * D + d[None, :]
        k = tl.load(tl.where(of_prompt, prompt_k + there, own_k + here), mask=before, other=0.0)
        v = tl.load(tl.where(of_prompt, prompt_v + there, own_v + here), mask=before, other=0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale  # [GROUP, BLOCK]
        scores = tl.where((at < last)[None, :], scores, float("-inf"))
        top = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - top[:, None])
        shrink = tl.exp(m - top)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        m = top
    tl.store(out + target, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prompt: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    prompt_of: torch.Tensor,
    prompt_length: torch.Tensor,
    own_length: torch.Tensor,
    done: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Attend from one new token per row, and put its key and value behind the row's own ones.

    Args:
        q: queries, [rows, heads, 1, D].
        k: the new token's keys, [rows, key-value heads, 1, D].
        v: its values, as `k`.
        prompt: keys and values of prompts, [prompts, key-value heads, positions, D], contiguous.
        own: keys and values of rows, [slots, key-value heads, positions, D], contiguous; row r is in slot r.
        prompt_of: each row's prompt, int32 [rows].
        prompt_length: its length, int32 [rows].
        own_length: how many own tokens a row has, the new one not counted, int32 [rows].
        done: rows that are over; nothing is read or written for them, and their output is 0, int32 [rows].
        scale: of the scores.
        window: how many positions back are seen, the token's own counted.

    Returns:
        [rows, 1, heads, D].
    """
    rows, heads, _, dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    q, k, v = (one if one.stride(3) == 1 else one.contiguous() for one in (q, k, v))
    out = torch.empty(rows, 1, heads, dim, dtype=q.dtype, device=q.device)
    _attend[(rows, kv_heads)](
        q, k, v, out, *prompt, *own, prompt_of, prompt_length, own_length, done, scale, window,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        prompt[0].stride(0), prompt[0].stride(1), own[0].stride(0), own[0].stride(1),
        HEADS=group, GROUP=max(16, triton.next_power_of_2(group)), D=dim, DIM=max(16, triton.next_power_of_2(dim)), BLOCK=BLOCK,
        num_warps=1,
    )  # fmt: skip
    return out


@triton.jit
def _adjusted(logits, seen, row, vocabulary, logits_row, seen_row, penalty, heat, at, PENALISE: tl.constexpr):
    """Return penalised logits over temperature at entries `at` of one row, float32; -inf beyond the vocabulary."""
    inside = at < vocabulary
    x = tl.load(logits + row * logits_row + at, mask=inside, other=float("-inf")).to(tl.float32)
    if PENALISE:
        before = tl.load(seen + row * seen_row + at, mask=inside, other=0) != 0
        x = tl.where(before, tl.where(x < 0, x * penalty, x / penalty), x)
    return tl.where(inside, x / heat, float("-inf"))


@triton.jit
def _reduce(logits, seen, largest, mass, vocabulary, logits_row, seen_row, penalty, heat, chunks,
            PENALISE: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """One program is one row and one chunk: its largest adjusted logit, and the sum of exp(logit - largest)."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = _adjusted(logits, seen, row, vocabulary, logits_row, seen_row, penalty, heat, at, PENALISE)
    broken = tl.sum(((x != x) | (x == float("inf"))).to(tl.int32), 0) > 0
    top = tl.max(x, 0)
    parts = tl.where(top == float("-inf"), 0.0, tl.exp(x - top))
    tl.store(largest + row * chunks + chunk, tl.where(broken, float("nan"), top))
    tl.store(mass + row * chunks + chunk, tl.sum(parts.to(tl.float64), 0))


@triton.jit
def _choose(logits, seen, largest, mass, u, ids, history, own_length, done, broken, limit, ends, vocabulary,
            logits_row, seen_row, u_row, history_row, penalty, heat, chunks,
            GREEDY: tl.constexpr, PENALISE: tl.constexpr, ENDS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program is one row: find the chunk that the uniform number falls into, then the token, and write it down."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(done + row) != 0:
        return
    step = tl.load(own_length + row)
    c = tl.arange(0, CHUNKS)
    tops = tl.load(largest + row * chunks + c, mask=c < chunks, other=float("-inf"))
    bad = tl.sum((tops != tops).to(tl.int32), 0) > 0
    top = tl.max(tl.where(tops != tops, float("-inf"), tops), 0)
    if bad | (top == float("-inf")):
        tl.store(broken + row, 1)
        tl.store(done + row, 1)
        return
    if GREEDY:
        chunk = tl.argmax(tops, 0, tie_break_left=True)
        at = chunk * CHUNK + tl.arange(0, CHUNK)
        x = _adjusted(logits, seen, row, vocabulary, logits_row, seen_row, penalty, heat, at, PENALISE)
        token = chunk * CHUNK + tl.argmax(x, 0, tie_break_left=True)
    else:
        weights = tl.load(mass + row * chunks + c, mask=c < chunks, other=0.0) * tl.exp((tops - top).to(tl.float64))
        weights = tl.where(c < chunks, weights, 0.0)
        below = tl.cumsum(weights, 0)
        goal = tl.load(u + row * u_row + step) * tl.sum(weights, 0)
        chunk = tl.sum((below <= goal).to(tl.int32), 0)
        chunk = tl.minimum(chunk, tl.max(tl.where(weights > 0, c, 0), 0))
        before = tl.sum(tl.where(c < chunk, weights, 0.0), 0)
        at = chunk * CHUNK + tl.arange(0, CHUNK)
        x = _adjusted(logits, seen, row, vocabulary, logits_row, seen_row, penalty, heat, at, PENALISE)
        p = tl.exp(x - top).to(tl.float64)
        inner = tl.sum((before + tl.cumsum(p, 0) <= goal).to(tl.int32), 0)
        token = tl.minimum(chunk * CHUNK + inner, tl.max(tl.where(p > 0, at, 0), 0))
    tl.store(ids + row, token.to(tl.int64))
    tl.store(history + row * history_row + step, token.to(tl.int32))
    if PENALISE:
        tl.store(seen + row * seen_row + token, 1)
    ended = False
    for e in tl.static_range(ENDS):
        ended = ended | (token == tl.load(ends + e))
    tl.store(own_length + row, step + 1)
    tl.store(done + row, (ended | (step + 1 >= tl.load(limit + row))).to(tl.int32))


def choose(
    logits: torch.Tensor,
    seen: torch.Tensor | None,
    u: torch.Tensor,
    *,
    ids: torch.Tensor,
    history: torch.Tensor,
    own_length: torch.Tensor,
    done: torch.Tensor,
    broken: torch.Tensor,
    limit: torch.Tensor,
    ends: torch.Tensor,
    temperature: float,
    penalty: float,
) -> None:
    """Choose the next token of each row that is not done, as `sampler.penalise` and `sampler.pick` would, and write it down.

    Args:
        logits: [rows, vocabulary].
        seen: tokens the row holds already, uint8 [rows, vocabulary]; the chosen one is added. None without a penalty.
        u: uniform numbers, float64 [rows, steps].
        ids: takes the token, int64 [rows].
        history: takes it at the row's step, int32 [rows, steps].
        own_length: the row's step, counted up, int32 [rows].
        done: set where the token ends the row or its limit is reached, int32 [rows].
        broken: set where the logits hold NaN or infinity, which ends the row too, int32 [rows].
        limit: tokens a row may get, int32 [rows].
        ends: tokens that end a row, int64 [n].
        temperature: 0 is greedy.
        penalty: 1 is none.
    """
    rows, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, CHUNK)
    largest = torch.empty(rows, chunks, dtype=torch.float32, device=logits.device)
    mass = torch.empty(rows, chunks, dtype=torch.float64, device=logits.device)
    heat = temperature or 1.0
    penalise = seen is not None
    marks = seen if seen is not None else done
    strides = (logits.stride(0), marks.stride(0))
    _reduce[(rows, chunks)](
        logits, marks, largest, mass, vocabulary, *strides, penalty, heat, chunks, PENALISE=penalise, CHUNK=CHUNK, num_warps=8
    )
    _choose[(rows,)](
        logits, marks, largest, mass, u, ids, history, own_length, done, broken, limit, ends, vocabulary,
        *strides, u.stride(0), history.stride(0), penalty, heat, chunks,
        GREEDY=temperature == 0, PENALISE=penalise, ENDS=len(ends), CHUNK=CHUNK, CHUNKS=triton.next_power_of_2(chunks),
        num_warps=8,
    )  # fmt: skip
