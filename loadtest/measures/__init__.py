"""The measures of streams: records, distributions, what is summed up over processes, and the document of a run."""
