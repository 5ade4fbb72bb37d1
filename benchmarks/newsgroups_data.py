"""The 20 newsgroups as the text-transfer tutorial divides them."""

from sklearn.datasets import fetch_20newsgroups

TARGET_GROUPS = (
    "alt.atheism",
    "comp.sys.mac.hardware",
    "rec.autos",
    "rec.sport.hockey",
    "sci.electronics",
    "soc.religion.christian",
    "talk.politics.guns",
)


def posts(kind):
    """Return the texts and group names of the "source" (13 groups) or "target" (7) posts."""
    found = fetch_20newsgroups(subset="all", shuffle=True, random_state=0)
    names = [found.target_names[number] for number in found.target]
    chosen = [(name in TARGET_GROUPS) == (kind == "target") for name in names]
    texts = [text for text, wanted in zip(found.data, chosen) if wanted]
    return texts, [name for name, wanted in zip(names, chosen) if wanted]
