package org.crowdlearn.check;

import java.lang.reflect.UndeclaredThrowableException;

/** An Android that is played: every call of it goes to a player, for checks on a Java VM. */
public final class Played {
  /** What answers calls: benchmarks/android/app/player.py. */
  public interface Player {
    Object call(Object self, String name, Object[] arguments);
  }

  public static Player player;

  private Played() {}

  public static Object call(Object self, String name, Object... arguments) {
    try {
      return player.call(self, name, arguments);
    } catch (UndeclaredThrowableException error) {
      throw Played.<RuntimeException>thrown(error.getUndeclaredThrowable());
    }
  }

  /** Throws any exception: Android's methods throw their own, which no signature here names. */
  @SuppressWarnings("unchecked")
  private static <T extends Throwable> T thrown(Throwable error) throws T {
    throw (T) error;
  }

  /** A constant of a whole number; the argument is what it is for a player that does not know it. */
  public static long number(String name) {
    return ((Number) player.call(null, name, new Object[] {0L})).longValue();
  }

  /** A constant of another type. */
  public static Object value(String name) {
    return player.call(null, name, new Object[] {name.substring(name.lastIndexOf('.') + 1)});
  }
}
