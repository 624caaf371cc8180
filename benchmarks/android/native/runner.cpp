// Runs methods of a program on Android's own ExecuTorch library.
//
//   runner --kernels               names of the operators that the library has, one a line
//   runner PROGRAM.pte IN OUT      every method of IN on its arrays; OUT has what they gave
//   runner PROGRAM.pte IN OUT N    the same, each N times, on one thread
//
// IN, little-endian: number of methods; each: name, number of arrays; each array: dtype (ExecuTorch's number),
// number of dimensions, dimensions, number of bytes, bytes. Numbers are int32, a name its length and its bytes.
// OUT: for each method the number of its outputs, then those and the inputs as the method left them, as arrays.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <vector>

#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/runtime.h>

using namespace executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

#ifdef __aarch64__
// bionic's stack guard lies 0x28 bytes behind the thread pointer, where glibc puts the program's thread-local data.
__thread volatile char guard_room[256];
#endif

namespace {

// Static destructors of two C++ libraries in one process do not end well.
[[noreturn]] void leave(int code) {
  fflush(stdout);
  fflush(stderr);
  _exit(code);
}

[[noreturn]] void fail(const std::string &what, unsigned error) {
  fprintf(stderr, "%s: error 0x%x\n", what.c_str(), error);
  leave(1);
}

template <typename T> T &checked(Result<T> &result, const std::string &what) {
  if (!result.ok()) fail(what, static_cast<unsigned>(result.error()));
  return result.get();
}

class GrowingAllocator : public MemoryAllocator {
 public:
  GrowingAllocator() : MemoryAllocator(0, nullptr) {}
  void *allocate(size_t size, size_t alignment = kDefaultAlignment) override {
    void *found = nullptr;
    if (posix_memalign(&found, alignment < 16 ? 16 : alignment, size ? size : 1)) return nullptr;
    return found;
  }
};

struct Array {
  int32_t dtype;
  std::vector<TensorImpl::SizesType> sizes;
  std::vector<TensorImpl::DimOrderType> order;
  std::vector<TensorImpl::StridesType> strides;
  std::vector<char> data;
};

class Reader {
 public:
  explicit Reader(const char *path) : file_(fopen(path, "rb")) {
    if (!file_) { perror(path); leave(2); }
  }
  void bytes(void *target, size_t size) {
    if (size && fread(target, 1, size, file_) != size) { fprintf(stderr, "the input ends early\n"); leave(2); }
  }
  int32_t number() { int32_t value; bytes(&value, 4); return value; }
  std::string name() { std::string text(number(), 0); bytes(text.data(), text.size()); return text; }
  Array array() {
    Array found;
    found.dtype = number();
    found.sizes.resize(number());
    for (auto &size : found.sizes) size = number();
    found.order.resize(found.sizes.size());
    found.strides.resize(found.sizes.size());
    int stride = 1;
    for (size_t i = found.sizes.size(); i-- > 0; stride *= found.sizes[i]) {
      found.order[i] = i;
      found.strides[i] = stride;
    }
    found.data.resize(number());
    bytes(found.data.data(), found.data.size());
    return found;
  }

 private:
  FILE *file_;
};

void put(FILE *file, int32_t value) { fwrite(&value, 4, 1, file); }

void put(FILE *file, int32_t dtype, const TensorImpl::SizesType *sizes, size_t rank, const void *data, size_t size) {
  put(file, dtype);
  put(file, rank);
  for (size_t i = 0; i < rank; i++) put(file, sizes[i]);
  put(file, size);
  fwrite(data, 1, size, file);
}

void run(Program &program, const std::string &name, std::vector<Array> &arrays, int times, FILE *out) {
  auto looked = program.method_meta(name.c_str());
  auto &meta = checked(looked, name);
  std::vector<std::vector<uint8_t>> planned;
  std::vector<Span<uint8_t>> spans;
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); i++)
    planned.emplace_back(meta.memory_planned_buffer_size(i).get());
  for (auto &buffer : planned) spans.push_back({buffer.data(), buffer.size()});
  HierarchicalAllocator arena({spans.data(), spans.size()});
  GrowingAllocator method_memory, temporary;
  MemoryManager memory(&method_memory, &arena, &temporary);
  auto loaded = program.load_method(name.c_str(), &memory);
  auto &method = checked(loaded, name);
  if (arrays.size() != meta.num_inputs()) fail(name + " takes another number of arrays", 0);
  std::vector<TensorImpl> tensors;
  tensors.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); i++) {
    auto &a = arrays[i];
    tensors.emplace_back(static_cast<ScalarType>(a.dtype), a.sizes.size(), a.sizes.data(), a.data.data(),
                         a.order.data(), a.strides.data());
    Error error = method.set_input(EValue(Tensor(&tensors[i])), i);
    if (error != Error::Ok) fail(name + ", input " + std::to_string(i), static_cast<unsigned>(error));
  }
  for (int i = 0; i < times; i++) {
    Error error = method.execute();
    if (error != Error::Ok) fail(name, static_cast<unsigned>(error));
  }
  put(out, meta.num_outputs());
  for (size_t i = 0; i < meta.num_outputs(); i++) {
    auto tensor = method.get_output(i).toTensor();
    put(out, static_cast<int32_t>(tensor.scalar_type()), tensor.sizes().data(), tensor.dim(),
        tensor.const_data_ptr(), tensor.nbytes());
  }
  for (auto &a : arrays) put(out, a.dtype, a.sizes.data(), a.sizes.size(), a.data.data(), a.data.size());
}

}  // namespace

int main(int count, char **words) {
#ifdef __aarch64__
  guard_room[0] = 0;
#endif
  runtime_init();
  if (count == 2 && !strcmp(words[1], "--kernels")) {
    for (auto &kernel : get_registered_kernels()) printf("%s\n", kernel.name_);
    leave(0);
  }
  if (count != 4 && count != 5) { fprintf(stderr, "runner PROGRAM.pte IN OUT [N]\n"); leave(2); }
  const int times = count == 5 ? atoi(words[4]) : 1;
  if (count == 5) executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);
  auto opened = executorch::extension::FileDataLoader::from(words[1], 64);
  auto &loader = checked(opened, words[1]);
  auto loaded = Program::load(&loader, Program::Verification::InternalConsistency);
  auto &program = checked(loaded, words[1]);
  Reader in(words[2]);
  FILE *out = fopen(words[3], "wb");
  if (!out) { perror(words[3]); leave(2); }
  for (int32_t methods = in.number(); methods > 0; methods--) {
    std::string name = in.name();
    std::vector<Array> arrays(in.number());
    for (auto &array : arrays) array = in.array();
    run(program, name, arrays, times, out);
  }
  fclose(out);
  leave(0);
}
