# %% [markdown]
# # From two CSV files to recommendations that can be looked at
#
# Cells of a notebook as a plain file: open it in an editor that knows `# %%`, or run it whole,
# `python examples/first_steps.py`. It takes about a minute on two cores without a GPU and writes
# below a temporary folder.

# %%
import tempfile
from pathlib import Path

import pmm
from pmm.demo.public_encoders import put_public_encoders
from pmm.world.formats.csv_writer import write_csv
from pmm.world.generate import generate

home = Path(tempfile.mkdtemp(prefix="pmm-first-steps-"))

# %% [markdown]
# ## Raw data
# Your own shop has these files already: interactions (user, item, time), items (id, title, maybe a
# picture's path), a folder of pictures. Here the embedded world draws a small one. Its small
# encoders stand in for XLM-RoBERTa and CLIP, so that nothing has to be fetched.

# %%
raw = home / "raw"
write_csv(generate("tiny"), "HM Shoes", raw)
put_public_encoders(home / "encoders")

# %% [markdown]
# ## Filter and split
# The card accounts for every row: read = kept + dropped by reason.

# %%
(card,) = pmm.ingest(
    "csv",
    name="shop",
    interactions=raw / "interactions.csv",
    items=raw / "items.csv",
    images=raw / "images",
    home=home,
)
rows = card["rows"]
assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
print({name: card["statistics"][name] for name in ("users", "items", "actions")}, rows["dropped"])

# %% [markdown]
# ## Shards
# Pictures of 224x224 and at most 50 tokens in plain WebDataset tars.

# %%
shards = pmm.shard(target="shop", text_encoder=str(home / "encoders" / "text"), home=home)
print(shards.record(1)["text"], shards.picture(1).shape)

# %% [markdown]
# ## Train and rank
# PMMRec from scratch, by the recipe that lies beside the small encoders; SASRec on ids beside it.

# %%
recipe = home / "encoders" / "recipe.toml"
run = pmm.train(target="shop", recipe=recipe, epochs=2, name="first", home=home)
ids = pmm.train(target="shop", model="sasrec", epochs=2, home=home)
for each in (run, ids):
    metrics = pmm.evaluate(each.place, home=home)
    print(each.name, {name: round(metrics[name]["hr@10"], 4) for name in ("model", "popularity")})

# %% [markdown]
# ## What came of it, as a frame
# One row a user; rank 1 is best. Whether items that were seen seldom are found:

# %%
import polars as pl  # noqa: E402

print(
    run.ranks.group_by(pl.col("train_count") < 10)
    .agg(users=pl.len(), hr_10=(pl.col("rank") <= 10).mean())
    .sort("train_count")
)
for line in pmm.compare(run.place, ids.place, home=home)[:1]:
    print(f"{line.name}: {line.first:.4f} and {line.second:.4f}, {line.low:.4f} to {line.high:.4f}")
print(f"The gallery: {run.place / 'gallery.png'}")
