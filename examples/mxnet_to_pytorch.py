"""
An MXNet checkpoint trained in PyTorch
======================================

xfer converts an MXNet checkpoint to a PyTorch module. Here it is trained further in a plain PyTorch
loop. You need ``pip install 'xfer-learn[torch]'``, but not MXNet.
"""

import matplotlib.pyplot as plt
import numpy as np

import xfer

try:
    import torch
except ImportError as error:
    raise SystemExit("This example trains a network, which needs PyTorch.") from error

EPOCHS = 60
LABELS_A_DIGIT = 20

# %%
# The module
# ----------
#
# The network that comes with xfer reads the digits 0 to 4. Its layers up to ``relu2`` become a
# ``torch.fx.GraphModule``. Its code can be read, and parameters have the names of the checkpoint.

source = xfer.load_checkpoint(xfer.example.checkpoint())
body = source.to_torch("relu2")
print(body.code)
for name, parameter in body.named_parameters():
    print(name, tuple(parameter.shape))

# %%
# It computes what the checkpoint computes, for any number of images.

images, digits = xfer.example.digits()
with torch.no_grad():
    difference = body(torch.tensor(images)).numpy() - source.extract(images, "relu2")["relu2"]
print(f"largest difference: {np.abs(difference).max():.1e}")

# %%
# A training loop
# ---------------
#
# The new digits are 5 to 9, with twenty labels each. A new last layer reads the maximum of each map
# of ``relu2``. Everything else is plain PyTorch.

images, digits = images[digits >= 5], digits[digits >= 5] - 5
order = np.random.RandomState(0).permutation(len(digits))
few = np.concatenate([order[digits[order] == k][:LABELS_A_DIGIT] for k in range(5)])
others = np.setdiff1d(order, few)
x, y = torch.tensor(images[few]), torch.tensor(digits[few])
new_x, new_y = torch.tensor(images[others]), torch.tensor(digits[others])

torch.manual_seed(0)
model = torch.nn.Sequential(
    body, torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 5)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
losses, accuracies = [], []
for _ in range(EPOCHS):
    model.train()
    losses.append(0)
    for rows in torch.randperm(len(x)).split(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses[-1] += loss.item() * len(rows) / len(x)
    model.eval()
    with torch.no_grad():
        accuracies.append((model(new_x).argmax(1) == new_y).float().mean().item())

# %%
# The dashed line is logistic regression on the same features of the frozen network. It is fitted at
# once. The new layer of the loop starts at random, so it needs some epochs to come as far; then the
# trained features pay off.

frozen = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[few], digits[few])
reference = frozen.score(images[others], digits[others])
print(f"frozen: {reference:.2f}, trained: {accuracies[-1]:.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
epochs = np.arange(1, EPOCHS + 1)
left.plot(epochs, losses)
left.set(xlabel="epoch", ylabel="log loss on the labels", ylim=(0, None))
left.set_title("An MXNet checkpoint, trained in PyTorch")
right.plot(epochs, accuracies, label="trained further")
right.axhline(reference, color="C1", linestyle="--", label="frozen, logistic regression")
right.set(xlabel="epoch", ylabel=f"accuracy on {len(others)} other images", ylim=(0, 1))
right.legend(loc="lower right")
plt.show()

# %%
# ``NeuralNetworkFineTuneRepurposer`` does all this in one line, and starts the new layer from the
# logistic regression: see :ref:`sphx_glr_gallery_fine_tuning.py`. To save or export the module, see
# :doc:`/mxnet_to_pytorch`.
