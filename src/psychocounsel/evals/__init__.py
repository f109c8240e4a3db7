"""The commands `psychocounsel eval …`: each reads, measures through `evaluate`, and leaves a folder of its own."""
