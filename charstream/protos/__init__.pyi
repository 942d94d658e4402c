from protos import charstream_pb2 as charstream_pb2
from protos import inference_pb2 as inference_pb2
