package org.crowdlearn.device;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Loads one program and runs its methods on memory that it shares, until the line ends: what
 * crowdlearn_device/program/isolation/confined.py is on other devices. Packets are those of messages.py there.
 */
final class ProgramProcess {
  static {
    System.loadLibrary("crowdlearn_open"); // before ExecuTorch: see opened.c
  }

  private static final int MAX_PACKET = 192 << 10;
  private static final int ALIGNED = 64;
  private static final int NUMBER = 8;
  private static final int MAX_SAID = 1000;

  /** Bytes that a program gets beyond four times what it says that it needs. */
  private static final long SPARE = 256L << 20;

  private final int line;
  private final ByteBuffer packet = direct(MAX_PACKET);
  private final int[] beside = {-1};
  private final Map<Long, ByteBuffer> memory = new HashMap<>();
  private final Map<Long, Call> calls = new HashMap<>();
  private ProgramRunner runner;
  private ByteBuffer room; // for outputs

  /** A method and its inputs, by their numbers with the runner, and what was told of its outputs. */
  private static final class Call {
    final String method;
    final int[] inputs;
    String told = "";
    ByteBuffer[] places = {};

    Call(String method, int[] inputs) {
      this.method = method;
      this.inputs = inputs;
    }
  }

  ProgramProcess(int line) {
    this.line = line;
  }

  void serve() {
    try {
      load();
      while (answer(Line.receive(line, packet, beside))) {}
    } catch (RuntimeException | LinkageError | OutOfMemoryError error) {
      send('e', String.valueOf(error)); // what is told last
    }
  }

  private void load() {
    int size = Line.receive(line, packet, beside);
    if (size < 1 || packet.get(0) != 'L' || beside[0] < 0) {
      throw new IllegalStateException("no program was given");
    }
    long needs = Math.max(0, packet.getLong(1 + NUMBER));
    long most = SPARE + 4 * Math.min(needs, 1L << 40);
    String held = "Android's isolated process";
    if (Line.limit(most)) {
      held += ", " + (most >> 20) + " MB of memory";
    }
    runner = new ProgramRunner("/proc/self/fd/" + beside[0]);
    if (runner.methods().length == 0) { // until it is asked something, nothing of the file is read
      throw new IllegalStateException("ExecuTorch cannot load the program");
    }
    send('l', held);
  }

  /** Answers a packet of so many bytes; whether there may be another one. */
  private boolean answer(int size) {
    if (size <= 0) {
      return false;
    }
    switch (packet.get(0)) {
      case 'R':
        run(calls.get(packet.getLong(1)));
        return true;
      case 'C':
        run(defined(size));
        return true;
      case 'S':
        share();
        return true;
      case 'F':
        forget(size);
        return true;
      default:
        throw new IllegalStateException("a packet of no known kind");
    }
  }

  private Call defined(int size) {
    long number = packet.getLong(1);
    Words words = new Words(text(1 + NUMBER, size));
    words.skip('[');
    String method = words.text();
    words.skip(',');
    words.skip('[');
    List<Integer> inputs = new ArrayList<>();
    while (!words.has(']')) {
      words.has(',');
      words.skip('[');
      ByteBuffer shared = memory.get(words.number());
      words.skip(',');
      int offset = (int) words.number();
      words.skip(',');
      String dtype = words.text();
      words.skip(',');
      long[] shape = words.numbers();
      words.skip(']');
      int bytes = Math.toIntExact(bytes(dtype, shape));
      inputs.add(runner.know(dtype, shape, bytes == 0 ? direct(0) : slice(shared, offset, bytes)));
    }
    int[] numbers = new int[inputs.size()];
    for (int i = 0; i < numbers.length; i++) {
      numbers[i] = inputs.get(i);
    }
    Call call = new Call(method, numbers);
    calls.put(number, call);
    return call;
  }

  private ByteBuffer share() {
    long number = packet.getLong(1);
    ByteBuffer shared = Line.map(beside[0], packet.getLong(1 + NUMBER));
    if (shared == null) {
      throw new OutOfMemoryError("memory that is shared");
    }
    memory.put(number, shared.order(ByteOrder.nativeOrder()));
    return memory.get(number);
  }

  private void forget(int size) {
    calls.clear();
    runner.keep(0);
    for (int at = 1; at + NUMBER <= size; at += NUMBER) {
      ByteBuffer gone = memory.remove(packet.getLong(at));
      if (gone != null) {
        Line.unmap(gone);
      }
    }
  }

  private void run(Call call) {
    try {
      int count = runner.run(call.method, call.inputs);
      StringBuilder specs = new StringBuilder("[");
      long[] sizes = new long[count];
      for (int i = 0; i < count; i++) {
        String dtype = numpy(runner.dtype(i));
        long[] shape = runner.shape(i);
        sizes[i] = bytes(dtype, shape);
        specs.append(i == 0 ? "" : ",").append("[\"").append(dtype).append("\",");
        specs.append(Arrays.toString(shape)).append(']');
      }
      String told = specs.append(']').toString();
      boolean same = told.equals(call.told);
      if (!same) {
        call.places = places(sizes);
        call.told = told;
      }
      for (int i = 0; i < count; i++) {
        if (sizes[i] > 0) {
          runner.copy(i, call.places[i].duplicate().order(ByteOrder.nativeOrder()));
        }
      }
      send(same ? '=' : 'd', same ? "" : told);
    } catch (RuntimeException error) {
      call.told = "";
      send('e', String.valueOf(error.getMessage()));
    }
  }

  /** Where outputs of these sizes go; in more memory, which it asks for, if there is not enough. */
  private ByteBuffer[] places(long[] sizes) {
    long all = 0;
    for (long size : sizes) {
      all += aligned(size);
    }
    if (all > 0 && (room == null || room.capacity() < all)) {
      for (Call other : calls.values()) {
        other.told = "";
      }
      packet.put(0, (byte) 'g').putLong(1, all);
      Line.send(line, packet, 1 + NUMBER);
      if (Line.receive(line, packet, beside) < 1 || packet.get(0) != 'S') {
        throw new IllegalStateException("no memory for outputs was given");
      }
      room = share();
    }
    ByteBuffer[] places = new ByteBuffer[sizes.length];
    long at = 0;
    for (int i = 0; i < sizes.length; i++) {
      places[i] = sizes[i] == 0 ? direct(0) : slice(room, (int) at, (int) sizes[i]);
      at += aligned(sizes[i]);
    }
    return places;
  }

  private void send(char kind, String said) {
    byte[] bytes = said.getBytes(StandardCharsets.UTF_8);
    int most = kind == 'd' ? MAX_PACKET - 1 : MAX_SAID;
    int size = Math.min(bytes.length, most);
    if (kind == 'd' && bytes.length > most) {
      throw new IllegalStateException("outputs that no message can hold");
    }
    ByteBuffer to = packet.duplicate();
    to.clear();
    to.put((byte) kind).put(bytes, 0, size);
    Line.send(line, packet, 1 + size);
  }

  private String text(int from, int to) {
    byte[] bytes = new byte[to - from];
    ByteBuffer source = packet.duplicate();
    source.position(from);
    source.get(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }

  private static ByteBuffer direct(int size) {
    return ByteBuffer.allocateDirect(size).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static ByteBuffer slice(ByteBuffer whole, int offset, int size) {
    ByteBuffer part = whole.duplicate();
    part.position(offset).limit(offset + size);
    return part.slice().order(ByteOrder.nativeOrder());
  }

  private static long aligned(long size) {
    return (size + ALIGNED - 1) / ALIGNED * ALIGNED;
  }

  private static long bytes(String dtype, long[] shape) {
    long bytes = dtype.endsWith("64") ? 8 : 4;
    for (long size : shape) {
      bytes = Math.multiplyExact(bytes, size);
    }
    return bytes;
  }

  private static String numpy(String dtype) {
    return dtype.equals("float") ? "float32" : dtype.equals("double") ? "float64" : dtype;
  }

  /** The JSON of a call: texts without escapes, whole numbers, arrays, no spaces. */
  private static final class Words {
    private final String json;
    private int at;

    Words(String json) {
      this.json = json;
    }

    boolean has(char wanted) {
      boolean found = json.charAt(at) == wanted;
      at += found ? 1 : 0;
      return found;
    }

    void skip(char wanted) {
      if (!has(wanted)) {
        throw new IllegalStateException("a call in no known form");
      }
    }

    String text() {
      skip('"');
      int from = at;
      at = json.indexOf('"', from) + 1;
      return json.substring(from, at - 1);
    }

    long number() {
      int from = at;
      while (Character.isDigit(json.charAt(at))) {
        at++;
      }
      return Long.parseLong(json.substring(from, at));
    }

    long[] numbers() {
      skip('[');
      List<Long> found = new ArrayList<>();
      while (!has(']')) {
        has(',');
        found.add(number());
      }
      long[] numbers = new long[found.size()];
      for (int i = 0; i < numbers.length; i++) {
        numbers[i] = found.get(i);
      }
      return numbers;
    }
  }
}
