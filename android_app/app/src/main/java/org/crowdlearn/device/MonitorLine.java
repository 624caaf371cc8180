package org.crowdlearn.device;

/** A line of what {@link Monitors} tells: name, type, microjoules and milliseconds, with tabs between them. */
final class MonitorLine {
  private MonitorLine() {}

  static String of(String name, boolean measured, long microjoules, long milliseconds) {
    String type = measured ? "measurement" : "consumer";
    String plain = name.replaceAll("[\\t\\r\\n]", " ");
    return plain + "\t" + type + "\t" + microjoules + "\t" + milliseconds + "\n";
  }
}
