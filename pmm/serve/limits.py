"""How much of anything the server takes, all in one place."""

# --- Requests.
JSON_BYTES = 2 << 20
"""Body of a call that sends JSON."""
UPLOAD_BYTES = 12 << 20
"""Body of a call that sends an item."""
BODY_SECONDS = 20.0
"""In which a body has to arrive."""
HEADER_SECONDS = 10.0
"""In which the head of a request has to arrive on an open connection."""
ANSWER_SECONDS = 60.0
"""In which a client has to take an answer."""
HEADER_BYTES = 32 << 10
"""Head of a request."""
DISCARDED_BYTES = 16 << 20
"""Of a body that is too long, read on without keeping it, so that the client hears why."""
REQUESTS = 64
"""In hand at once; more are asked to come back."""
UPLOADS = 6
"""Writing calls in hand at once: each may hold a body, and items are encoded one after the other.
"""
CONNECTIONS = 1_000
"""Open at once, idle ones among them."""
KEEP_ALIVE_SECONDS = 15
"""For which an idle connection is kept."""
STOP_SECONDS = 30
"""For which requests in hand are waited for when the server stops."""
RETRY_SECONDS = 1
"""After which a client that was sent away may come back."""

# --- What is asked.
MOST_ITEMS = 1_000
"""k of a call."""
MOST_EXPLAINED = 100
"""k of a call with reasons."""
MOST_REASONS = 20
"""Of an item."""
HISTORY = 10_000
"""Ids of a history."""
IDS = 10_000
"""Ids of a list that filters."""
HISTORIES = 256
"""Of a batch."""
ANSWERS = 20_000
"""Items of a batch's answer, histories times k."""
CATEGORIES = 100
"""Names of a list of categories."""
PAGE = 100
"""Rows of a page of a list."""
OFFSET = 10_000_000
"""Where a page may begin."""
QUERY_CHARACTERS = 200
"""Of a search."""
QUERY_WORDS = 12
"""Of a search."""
SEARCH_SECONDS = 2.0
"""For which a search may run."""
SHOWN_HISTORY = 100
"""Items of a test user's history that a list shows, the latest."""

# --- Items.
ID_CHARACTERS = 512
"""Of an item's or a user's id."""
TEXT_CHARACTERS = 20_000
"""Of an item's text; the model reads the first tokens."""
CATEGORY_CHARACTERS = 200
"""Of a category's name."""
ITEM_CATEGORIES = 32
"""Of an item."""
PICTURE_BYTES = 10 << 20
"""Of a picture file."""
PICTURE_PIXELS = 50_000_000
"""Of a picture: 50 million, the most that a telephone takes; decoded they are 150 MB."""

# --- Models.
PATH_CHARACTERS = 4_096
"""Of the path of a model."""
CHECKED_USERS = 200
"""Test users whose ranks a model is held against before it serves."""
CHECKED_DEPTH = 1_000
"""Ranks up to which they are compared."""
CHECKED_SHARE = 0.98
"""Of these users, who must have the rank of the evaluation (or one within 2%: another device rounds
otherwise)."""
