package org.crowdlearn.device;

import android.content.ContentResolver;
import android.content.Context;
import android.net.Uri;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/** The owner's samples: copied from whatever content provider holds them into the app's own folder. */
final class Samples {
  private Samples() {}

  /** Copies a document under a plain name; the file appears only when it is whole. */
  static void copy(Context context, Uri document, String name) throws IOException {
    File folder = new File(context.getFilesDir(), "data");
    if (!folder.isDirectory() && !folder.mkdirs()) {
      throw new IOException("no folder for samples");
    }
    File part = new File(folder, name + ".part");
    ContentResolver resolver = context.getContentResolver();
    try (InputStream source = resolver.openInputStream(document);
        OutputStream target = new FileOutputStream(part)) {
      if (source == null) {
        throw new IOException("the provider gives nothing");
      }
      byte[] block = new byte[1 << 16];
      for (int read = source.read(block); read >= 0; read = source.read(block)) {
        target.write(block, 0, read);
      }
    } catch (IOException error) {
      part.delete();
      throw error;
    }
    if (!part.renameTo(new File(folder, name))) {
      throw new IOException("the samples cannot be stored");
    }
  }
}
