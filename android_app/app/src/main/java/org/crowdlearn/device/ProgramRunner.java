package org.crowdlearn.device;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.util.ArrayList;
import java.util.List;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/**
 * Runs the methods of a program on ExecuTorch's Android library: the Java half of the Python class AndroidExecutor.
 *
 * <p>Arrays that are held keep a direct buffer here, which programs read and write in place; what Python sends and
 * receives besides are bytes in native order.
 */
public final class ProgramRunner {
  private final Module module;
  private final List<ByteBuffer> held = new ArrayList<>();
  private final List<EValue> heldValues = new ArrayList<>();
  private EValue[] outputs = new EValue[0];

  public ProgramRunner(String path) {
    module = Module.load(path);
  }

  public String[] methods() {
    return module.getMethods();
  }

  /** Forgets all arrays but the first that were held. */
  public void keep(int count) {
    held.subList(count, held.size()).clear();
    heldValues.subList(count, heldValues.size()).clear();
  }

  /** Holds an array of a NumPy dtype; its number. */
  public int hold(String dtype, long[] shape, byte[] content) {
    ByteBuffer buffer = direct(content);
    held.add(buffer);
    heldValues.add(EValue.from(tensor(dtype, shape, buffer)));
    return held.size() - 1;
  }

  public void write(int number, byte[] content) {
    ByteBuffer buffer = held.get(number).duplicate();
    ((Buffer) buffer).clear();
    buffer.put(content);
  }

  public byte[] read(int number) {
    ByteBuffer buffer = held.get(number).duplicate();
    ((Buffer) buffer).clear();
    byte[] content = new byte[buffer.remaining()];
    buffer.get(content);
    return content;
  }

  /** Runs a method on held arrays, by number; how many outputs it has. They last until the next run. */
  public int run(String method, int[] numbers) {
    EValue[] inputs = new EValue[numbers.length];
    for (int i = 0; i < numbers.length; i++) {
      inputs[i] = heldValues.get(numbers[i]);
    }
    outputs = module.execute(method, inputs);
    return outputs.length;
  }

  public String dtype(int output) {
    return outputs[output].toTensor().dtype().name().toLowerCase(java.util.Locale.ROOT);
  }

  public long[] shape(int output) {
    return outputs[output].toTensor().shape();
  }

  public byte[] content(int output) {
    Tensor tensor = outputs[output].toTensor();
    switch (tensor.dtype()) {
      case FLOAT: {
        float[] values = tensor.getDataAsFloatArray();
        ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.nativeOrder());
        buffer.asFloatBuffer().put(values);
        return buffer.array();
      }
      case DOUBLE: {
        double[] values = tensor.getDataAsDoubleArray();
        ByteBuffer buffer = ByteBuffer.allocate(8 * values.length).order(ByteOrder.nativeOrder());
        buffer.asDoubleBuffer().put(values);
        return buffer.array();
      }
      case INT64: {
        long[] values = tensor.getDataAsLongArray();
        ByteBuffer buffer = ByteBuffer.allocate(8 * values.length).order(ByteOrder.nativeOrder());
        buffer.asLongBuffer().put(values);
        return buffer.array();
      }
      case INT32: {
        int[] values = tensor.getDataAsIntArray();
        ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.nativeOrder());
        buffer.asIntBuffer().put(values);
        return buffer.array();
      }
      default:
        throw new IllegalArgumentException("outputs of " + tensor.dtype() + " are not read");
    }
  }

  public void close() {
    module.destroy();
  }

  private static ByteBuffer direct(byte[] content) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(content.length).order(ByteOrder.nativeOrder());
    buffer.put(content);
    ((Buffer) buffer).rewind();
    return buffer;
  }

  private static Tensor tensor(String dtype, long[] shape, ByteBuffer buffer) {
    switch (dtype) {
      case "float32": {
        FloatBuffer values = buffer.asFloatBuffer();
        return Tensor.fromBlob(values, shape);
      }
      case "float64": {
        DoubleBuffer values = buffer.asDoubleBuffer();
        return Tensor.fromBlob(values, shape);
      }
      case "int64": {
        LongBuffer values = buffer.asLongBuffer();
        return Tensor.fromBlob(values, shape);
      }
      case "int32": {
        IntBuffer values = buffer.asIntBuffer();
        return Tensor.fromBlob(values, shape);
      }
      default:
        throw new IllegalArgumentException("arrays of " + dtype + " are not taken");
    }
  }
}
