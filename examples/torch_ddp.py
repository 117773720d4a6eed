"""Train data-parallel with PyTorch's own engine: torchrun --nproc-per-node 2 torch_ddp.py

Every process has a copy of the model and a share of the batch; DistributedDataParallel averages the
gradients. Nothing of this knows that the layers run on rnnfast.
"""

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
    distributed.init_process_group("gloo")  # "nccl" where each process has a GPU
    rank, size = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    model = rnnfast.torch.accelerate(DistributedDataParallel(Adder()))
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(41):
        x = torch.randn(16, 20, 1)[rank::size]  # the same numbers everywhere, a share of them here
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
