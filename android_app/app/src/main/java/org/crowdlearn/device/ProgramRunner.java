package org.crowdlearn.device;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/**
 * Runs the methods of a program on ExecuTorch's Android library: the Java half of the Python class AndroidExecutor.
 *
 * <p>Programs read and write Python's own arrays where they lie; only outputs are copied, into arrays of Python's.
 */
public final class ProgramRunner {
  private final Module module;
  private final List<EValue> known = new ArrayList<>();
  private EValue[] outputs = new EValue[0];

  public ProgramRunner(String path) {
    module = Module.load(path);
  }

  public String[] methods() {
    return module.getMethods();
  }

  /** Forgets all arrays but the first that became known. */
  public void keep(int count) {
    known.subList(count, known.size()).clear();
  }

  /** The number of an array of a NumPy dtype, which lies at an address as long as it is known. */
  public int know(String dtype, long[] shape, long address, long bytes) {
    return know(dtype, shape, Memory.buffer(address, bytes));
  }

  /** The number of an array of a NumPy dtype that lies in a direct buffer. */
  int know(String dtype, long[] shape, ByteBuffer buffer) {
    known.add(EValue.from(tensor(dtype, shape, buffer)));
    return known.size() - 1;
  }

  /** Runs a method on known arrays, by number; how many outputs it has. They last until the next run. */
  public int run(String method, int[] numbers) {
    EValue[] inputs = new EValue[numbers.length];
    for (int i = 0; i < numbers.length; i++) {
      inputs[i] = known.get(numbers[i]);
    }
    outputs = module.execute(method, inputs);
    return outputs.length;
  }

  public String dtype(int output) {
    return outputs[output].toTensor().dtype().name().toLowerCase(Locale.ROOT);
  }

  public long[] shape(int output) {
    return outputs[output].toTensor().shape();
  }

  /** Copies an output to an address that has room for it. */
  public void copy(int output, long address, long bytes) {
    copy(output, Memory.buffer(address, bytes));
  }

  void copy(int output, ByteBuffer target) {
    Tensor tensor = outputs[output].toTensor();
    switch (tensor.dtype()) {
      case FLOAT:
        target.asFloatBuffer().put(tensor.getDataAsFloatArray());
        break;
      case DOUBLE:
        target.asDoubleBuffer().put(tensor.getDataAsDoubleArray());
        break;
      case INT64:
        target.asLongBuffer().put(tensor.getDataAsLongArray());
        break;
      case INT32:
        target.asIntBuffer().put(tensor.getDataAsIntArray());
        break;
      default:
        throw new IllegalArgumentException("outputs of " + tensor.dtype() + " are not read");
    }
  }

  public void close() {
    module.destroy();
  }

  private static Tensor tensor(String dtype, long[] shape, ByteBuffer buffer) {
    switch (dtype) {
      case "float32":
        return Tensor.fromBlob(buffer.asFloatBuffer(), shape);
      case "float16":
        return Tensor.fromBlob(buffer.asShortBuffer(), shape);
      case "int8":
        return Tensor.fromBlob(buffer, shape);
      case "float64":
        return Tensor.fromBlob(buffer.asDoubleBuffer(), shape);
      case "int64":
        return Tensor.fromBlob(buffer.asLongBuffer(), shape);
      case "int32":
        return Tensor.fromBlob(buffer.asIntBuffer(), shape);
      default:
        throw new IllegalArgumentException("arrays of " + dtype + " are not taken");
    }
  }
}
