"""Planning a mixture of experts: which tensor of which model becomes which of the output."""
