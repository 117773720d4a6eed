"""Train data-parallel with PyTorch's own engine: torchrun --nproc-per-node 2 torch_ddp.py

Every process has a copy of the model and a share of the batch; DistributedDataParallel averages the
gradients, by NCCL where there are GPUs, one for each process, and by gloo on CPUs. Nothing of this
knows that the layers run on rnnfast.
"""

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import rnnfast.torch


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 32, batch_first=True)
        self.out = nn.Linear(32, 1)

    def forward(self, x):
        return self.out(self.gru(x)[0])


def main():
    if torch.cuda.is_available():
        backend, device = "nccl", torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        backend, device = "gloo", torch.device("cpu")
    distributed.init_process_group(backend)
    rank, size = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    model = rnnfast.torch.accelerate(DistributedDataParallel(Adder().to(device)))
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(41):
        # The same numbers everywhere, a share of them here.
        x = torch.randn(16, 20, 1)[rank::size].to(device)
        loss = (model(x) - x.cumsum(1)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        distributed.all_reduce(loss := loss.detach())
        if rank == 0 and step % 20 == 0:
            print(f"step {step:3}   loss {loss / size:.3f}")
    if rank == 0:
        print(rnnfast.torch.dispatch_counts())
    distributed.barrier()  # gloo aborts if Python ends before its threads are done
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
