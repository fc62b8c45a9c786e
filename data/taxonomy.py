"""Domain trees from what a log has: repaired category names, or clusters of item vectors named by their words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..taxonomy_interest import DomainTree


MAX_TOP_DOMAINS = 16
MAX_SUB_DOMAINS = 6
WORDS_PER_NAME = 2


def repair_parents(categories: Sequence[Sequence[Sequence[str]]]) -> tuple[list[list[list[str]]], dict[str, int]]:
    """Gives each category name one parent: the one it has for most items.

    For sources where a category's name is its identity (a category column beside a parent column). A name that stands
    under itself says nothing about its parent, so `Bar > Bar` becomes `Nightlife > Bar` where other bars say so, and a
    plain `Food` where nothing does. A cycle of majorities is cut at its most frequent name.

    Args:
        categories: per item its paths, root first.

    Returns:
        The repaired paths per item, and counts: `names` that had several parents (itself included), `equal_to_parent`:
        names that stood under themselves, `items` whose paths changed.
    """
    parents: dict[str, Counter] = {}
    frequency: Counter[str] = Counter()
    for paths in categories:
        for path in paths:
            frequency.update(set(path))
            for parent, child in zip(path, path[1:], strict=False):
                parents.setdefault(child, Counter())[parent] += 1
    majority: dict[str, str] = {}
    for child, counts in parents.items():
        others = [(-count, parent) for parent, count in counts.items() if parent != child]
        if others:
            majority[child] = min(others)[1]
    for name in sorted(majority, key=lambda name: (-frequency[name], name)):
        seen, current = [name], majority.get(name)
        while current is not None and current not in seen:
            seen.append(current)
            current = majority.get(current)
        if current is not None:
            cycle = seen[seen.index(current) :]
            majority.pop(min(cycle, key=lambda member: (-frequency[member], member)))

    def chain(name: str) -> list[str]:
        path = [name]
        while path[0] in majority:
            path.insert(0, majority[path[0]])
        return path

    chains = {name: chain(name) for name in frequency}
    repaired = [
        [list(p) for p in dict.fromkeys(tuple(chains[path[-1]]) for path in paths if path)] for paths in categories
    ]
    changed = sum([list(p) for p in old] != new for old, new in zip(categories, repaired, strict=True))
    counts = {
        "names": sum(len(counts) > 1 for counts in parents.values()),
        "equal_to_parent": sum(name in counts for name, counts in parents.items()),
        "items": changed,
    }
    return repaired, counts


def names_under_several_parents(categories: Iterable[Iterable[Sequence[str]]]) -> int:
    """How many names stand in several places (`Men > Shoes`, `Women > Shoes`); their paths keep them apart."""
    places: dict[str, set] = {}
    for paths in categories:
        for path in paths:
            for depth, name in enumerate(path):
                places.setdefault(name, set()).add(tuple(path[:depth]))
    return sum(len(found) > 1 for found in places.values())


def load_domains(domains: str | Path | DomainTree | Sequence) -> DomainTree:
    """A handed-in taxonomy: a file, a tree, a list of nodes, or a list of paths (root first).

    Raises:
        ValueError: not a tree: a cycle, an unknown parent, a repeated id; or a form that is none of these.
    """
    if isinstance(domains, DomainTree):
        return domains
    name = "domains"
    if isinstance(domains, (str, Path)):
        name = str(domains)
        if not Path(domains).is_file():
            raise ValueError(f"{domains}: no such taxonomy file")
        try:
            domains = json.loads(Path(domains).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: not JSON ({error})") from None
        if isinstance(domains, dict):
            domains = domains.get("nodes")
    if not isinstance(domains, (list, tuple)) or not domains:
        raise ValueError(f"{name}: expected a list of nodes with `id`, `name`, `parent`, or a list of paths")
    try:
        if all(isinstance(node, dict) for node in domains):
            return DomainTree(domains)
        if all(
            isinstance(path, (list, tuple)) and path and all(isinstance(n, str) and n for n in path)
            for path in domains
        ):
            prefixes = {tuple(path[:depth]) for path in domains for depth in range(1, len(path) + 1)}
            nodes = [{"id": " > ".join(p), "name": p[-1], "parent": " > ".join(p[:-1]) or None} for p in prefixes]
            return DomainTree(sorted(nodes, key=lambda node: node["id"]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    raise ValueError(f"{name}: expected a list of nodes with `id`, `name`, `parent`, or a list of paths of names")


def text_vectors(texts: Sequence[str], dimensions: int = 64, seed: int = 0) -> np.ndarray | None:
    """Unit vectors of texts by TF-IDF and SVD (latent semantic analysis), or None where the texts share no words.

    Returns:
        `(I, D)` float32; a row of zeros for a text without known words.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        minimum = 2 if len(texts) >= 50 else 1
        vectorizer = TfidfVectorizer(min_df=minimum, max_features=20_000, sublinear_tf=True, stop_words="english")
        weights = vectorizer.fit_transform(texts)
    except ValueError:  # an empty vocabulary
        return None
    dimensions = min(dimensions, min(weights.shape) - 1)
    if dimensions < 1:
        return None
    vectors = TruncatedSVD(dimensions, random_state=seed).fit_transform(weights).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 1e-6, vectors / np.maximum(norms, 1e-6), 0).astype(np.float32)


def tree_from_vectors(
    vectors: np.ndarray,
    texts: Sequence[str],
    num_top: int | None = None,
    max_children: int = MAX_SUB_DOMAINS,
    seed: int = 0,
) -> tuple[DomainTree | None, list[list[list[str]]]]:
    """A two-level tree from item vectors: k-means, then k-means within each large cluster; named by typical words.

    Args:
        vectors (`np.ndarray` of shape `(I, D)`): one per item; they are normalised here. Zero rows are items of which
            nothing is known: they get no path.
        texts: the items' texts, for the names.
        num_top (`int`, *optional*): number of top domains; by default 2 to 16, one per 40 items.
        max_children (`int`): at most so many below one top domain, one per 40 of its items; fewer than 2 means none.
        seed (`int`): of k-means.

    Returns:
        The tree (None where fewer than two distinct vectors exist) and the paths of every item.

    Raises:
        ValueError: vectors that are not finite, or not one per text.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"item vectors have shape {vectors.shape}, expected ({len(texts)}, D)")
    if not np.isfinite(vectors).all():
        raise ValueError(f"item vectors: row {int(np.argmin(np.isfinite(vectors).all(axis=1)))} is not finite")
    norms = np.linalg.norm(vectors, axis=1)
    known = np.flatnonzero(norms > 1e-6)
    paths: list[list[list[str]]] = [[] for _ in texts]
    points = vectors[known] / norms[known, None]
    if len(np.unique(points, axis=0)) < 2:
        return None, paths
    top = _cluster(points, num_top or int(np.clip(len(known) // 40, 2, MAX_TOP_DOMAINS)), seed)
    known_texts = [texts[i] for i in known]
    sub = np.full(len(known), -1)
    for cluster in range(top.max() + 1):
        members = np.flatnonzero(top == cluster)
        wanted = min(len(members) // 40, max_children)
        if wanted >= 2:
            sub[members] = _cluster(points[members], wanted, seed)
    top_names = _typical_words(known_texts, top)
    for cluster, name in enumerate(top_names):
        members = np.flatnonzero(top == cluster)
        if sub[members].max(initial=-1) > 0:
            used = set(name.split(", "))
            names = _typical_words([known_texts[i] for i in members], sub[members], used)
            for member in members:
                paths[known[member]] = [[name, names[sub[member]]]]
        else:
            for member in members:
                paths[known[member]] = [[name]]
    return DomainTree.from_paths(paths), paths


def _cluster(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(np.unique(points, axis=0)))
    labels = KMeans(clusters, n_init=3, random_state=seed).fit_predict(points)
    return np.unique(labels, return_inverse=True)[1]


def _typical_words(texts: Sequence[str], labels: np.ndarray, unwanted: Iterable[str] = ()) -> list[str]:
    """A name per cluster: the words whose share of texts inside is largest against all texts (share * log lift)."""
    from sklearn.feature_extraction.text import CountVectorizer

    clusters = int(labels.max()) + 1
    try:
        minimum = 2 if len(texts) >= 50 else 1
        pattern = r"(?u)\b[^\W\d_][\w'-]+\b"
        vectorizer = CountVectorizer(
            binary=True, min_df=minimum, max_features=20_000, stop_words="english", token_pattern=pattern
        )
        present = vectorizer.fit_transform(texts)
    except ValueError:
        return [f"group {cluster + 1}" for cluster in range(clusters)]
    words = vectorizer.get_feature_names_out()
    overall = np.asarray(present.mean(axis=0)).ravel()
    unwanted = set(unwanted)
    names: list[str] = []
    for cluster in range(clusters):
        inside = np.asarray(present[labels == cluster].mean(axis=0)).ravel()
        score = inside * np.log((inside + 1e-9) / (overall + 1e-9))
        best = [
            str(words[i]) for i in np.argsort(-score, kind="stable")[:50] if inside[i] > 0 and words[i] not in unwanted
        ]
        name = ", ".join(best[:WORDS_PER_NAME]) or f"group {cluster + 1}"
        more = WORDS_PER_NAME
        while name in names and more < len(best):
            more += 1
            name = ", ".join(best[:more])
        names.append(name if name not in names else f"{name} {cluster + 1}")
    return names
