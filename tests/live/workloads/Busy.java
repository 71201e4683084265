// Busy for the CPU seconds given: a method that is compiled, and sorting with a comparison called back.
import java.lang.management.ManagementFactory;
import java.util.Arrays;

public class Busy {
    static volatile long sink;

    static void burn(int rounds) {
        long x = 0;
        for (int i = 0; i < rounds; i++) x = x * 31 + i;
        sink = x;
    }

    static void sort() {
        Integer[] items = new Integer[300];
        for (int i = 0; i < items.length; i++) items[i] = i * 7919 % 1000;
        Arrays.sort(items, (a, b) -> a - b);
    }

    public static void main(String[] arguments) {
        double seconds = Double.parseDouble(arguments[0]);
        var bean = ManagementFactory.getThreadMXBean();
        while (bean.getCurrentThreadCpuTime() < seconds * 1e9)
            for (int i = 0; i < 100; i++) {
                burn(10000);
                sort();
            }
    }
}
