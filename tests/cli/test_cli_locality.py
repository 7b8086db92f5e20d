"""`apical locality`: its rows for programs, and its lines for people."""


def test_rows_are_those_that_were_asked_for(answer):
    rows = answer("locality", "--rules", "oja,predictive_coding", "--feedback", "tied,kolen-pollack")
    assert [(row["rule"], row["feedback"]) for row in rows] == [
        ("oja", "-"),
        ("predictive_coding", "tied"),
        ("predictive_coding", "kolen_pollack"),
    ]
    assert [row["weights_above"] > 0 for row in rows] == [False, True, False]
    assert {row["future_moments"] for row in rows} == {None}


def test_pathways_with_the_same_outcomes_share_a_line(apical):
    shown = apical(
        "locality", "--rules", "agrel", "--feedback", "fixed,kolen_pollack", "--neurons", "batch_norm"
    ).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["agrel", "any", "moves", "moves", "holds", "-"] in lines
    assert max(map(len, shown.splitlines())) <= 80
