"""Search over sequences by its definition: all that there are, one after the other, in lists.

`find_scores(tokens)` gives the V scores of the token behind the tuple `tokens`. A hypothesis is (tokens, sum of log
probabilities) and ends with the end token, at the latest as token number `limit`.
"""

import math


def find_log_probabilities(scores):
    """log softmax of a list."""
    largest = max(scores)
    total = largest + math.log(sum(math.exp(score - largest) for score in scores))
    return [score - total for score in scores]


def list_extensions(find_scores, hypothesis, *, end, limit, impossible):
    """The hypotheses with one token more."""
    tokens, total = hypothesis
    extended = []
    for token, log in enumerate(find_log_probabilities(find_scores(tokens))):
        if token not in impossible and (token == end or len(tokens) + 1 < limit):
            extended.append(((*tokens, token), total + log))
    return extended


def list_hypotheses(find_scores, *, end, limit, impossible=(0,)):
    """Every hypothesis that there is."""
    rules = {"end": end, "limit": limit, "impossible": impossible}
    found, open_ones = [], [((), 0.0)]
    while open_ones:
        for extended in list_extensions(find_scores, open_ones.pop(), **rules):
            (found if extended[0][-1] == end else open_ones).append(extended)
    return found


def rank_hypotheses(hypotheses, length_penalty):
    """[(score, tokens)], best first: the sum over length ** length_penalty."""
    scored = [(total / len(tokens) ** length_penalty, tokens) for tokens, total in hypotheses]
    return sorted(scored, reverse=True)


def search_beams(find_scores, beam_size, length_penalty, *, end, limit, impossible=(0,)):
    """[(score, tokens)] of a beam search that goes on to the limit whatever it has found.

    An end among the `beam_size` best candidates of a step finishes; the `beam_size` best that do not end go on.
    """
    rules = {"end": end, "limit": limit, "impossible": impossible}
    live, finished = [((), 0.0)], []
    for _ in range(limit):
        candidates = [new for hypothesis in live for new in list_extensions(find_scores, hypothesis, **rules)]
        candidates.sort(key=lambda hypothesis: -hypothesis[1])
        finished += [hypothesis for hypothesis in candidates[:beam_size] if hypothesis[0][-1] == end]
        live = [hypothesis for hypothesis in candidates if hypothesis[0][-1] != end][:beam_size]
    return rank_hypotheses(finished, length_penalty)[:beam_size]


def search_greedily(find_scores, *, end, limit, impossible=(0,)):
    """The hypothesis that takes the best token each time."""
    hypothesis = ((), 0.0)
    while hypothesis[0][-1:] != (end,):
        extensions = list_extensions(find_scores, hypothesis, end=end, limit=limit, impossible=impossible)
        hypothesis = max(extensions, key=lambda extended: extended[1])
    return hypothesis


def list_probable(scores, top_k, top_p):
    """Tokens that top-k (0: all) and then top-p leave, best first; of equal ones the lower id goes first."""
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    order = order[: top_k or len(scores)]
    shares = [math.exp(log) for log in find_log_probabilities([scores[token] for token in order])]
    kept, share = [], 0.0
    for token, probability in zip(order, shares, strict=True):
        if share < top_p:
            kept.append(token)
        share += probability
    return kept
