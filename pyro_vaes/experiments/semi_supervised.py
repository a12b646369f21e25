"""Few labels: a discriminator that classifies, with an autoencoder, a VAE or a crVAE as the generator (S2 4.5).

Protocol: all images train generator and discriminator, a few of them with their label; the figure is the accuracy of
the discriminator's class head on the test images, in per cent. A cell is (generator, fold): a fold is a draw of the
labelled images, and the seed of parameters, order and noise too. Generators: a deterministic autoencoder, a VAE, a
crVAE of the same filters and number of codes; and none, that is, the same network trained on the labelled images alone
(cross-entropy, batches of 50, as many steps), which is what the other images have to improve on. Weights are S2's
(alpha = 1e-4, beta = 1e-3, fakes are reconstructions), as is the learning rate of the crVAE, 0.002; the discriminator's
is 0.001 whatever the generator, and so is that of the other two. Labelled images are repeated so that a quarter of the
rows has a label.

Beside the accuracy: the error of the reconstruction of test images, and how often the discriminator still tells images
from reconstructions at the end of training (half each; 50 % is not at all). Both are part of no claim.

Scales: ``quick`` is a **stand-in**: {images} of CIFAR-10, reduced to 16 x 16, {labels} of them with a label, drawn anew
for each of five folds, and small networks. It says nothing about STL-10, and is never shown beside figures of STL-10.
``paper`` is STL-10: 100,000 images without a label, its ten folds of 1000 labelled ones, 8000 test images, 2048 codes,
T = 8; it needs the data (``{root}/stl10_binary``), a GPU, and 16 GB of memory. Only there the published accuracies are
in the table.

Claims, written down before any run of the protocol: S2's order crVAE > VAE > autoencoder, and each of the three is
above the labelled images alone; differences are paired by fold.

Departs from S2, which leaves most of the protocol to Denton, Gross & Fergus (2016): images of 64 x 64 (96 x 96 reduced
by averaging) at ``paper`` scale, since 2048 codes are 128 channels on 4 x 4; a VGG trunk of our own size; a learning
rate that falls to zero by a cosine; no augmentation; both players step at once; nothing was chosen by accuracy.
"""
