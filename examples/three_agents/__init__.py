"""Three agents on two queues that find each other by tag and call each other.

    editor.brief ─┬─ researcher.research (one per question) ── reviewer.check
                  └─ reviewer.check

The editor and the reviewer work from the queue `editors` (`editors.py`), the researcher from
`research` (`research.py`): start a worker for each.

    skillfleet worker examples.three_agents.editors
    skillfleet worker examples.three_agents.research
    python -m examples.three_agents "what bees do in winter"
"""
