"""Reading what `torch.save` wrote and writing what `torch.load` reads, without PyTorch."""
