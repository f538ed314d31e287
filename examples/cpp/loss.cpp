// A loss in C++, with libtorch alone. From the repository, after `make demo`:
//
//     cmake -S examples/cpp -B build/cpp -D PYTHON=.venv/bin/python && cmake --build build/cpp
//     build/cpp/loss losses/ctc_loss/ctc_loss.pt
#include <torch/script.h>

#include <iostream>

int main(int, char** argv) {
    torch::jit::Module ctc_loss = torch::jit::load(argv[1]);
    torch::Tensor log_probs = torch::full({1, 3, 4}, 0.25).log();  // one item, three frames, four classes
    torch::Tensor targets = torch::tensor({{1, 2}}), whole = torch::ones(1);
    std::cout << ctc_loss.forward({log_probs, targets, whole, whole}).toTensor() << "\n";
}
